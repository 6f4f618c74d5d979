"""A project that installs only a part of the demo gets an error that names the missing part, before any command runs."""

from __future__ import annotations

import pytest

from tests.integration.stranger import Stranger


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        (
            ["tasks_demo.demo"],
            "tasks_demo.demo needs 'tasks_demo.demo.shop' in INSTALLED_APPS, 'tasks_demo.demo.bank' in",
        ),
        (["tasks_demo.demo"], "the setting STATE_DIR"),
        (
            ["tasks_demo.lab"],
            "tasks_demo.lab kills workers that run the jobs of tasks_demo.demo: add that to INSTALLED_APPS.",
        ),
        (["tasks_demo.benchmark"], "tasks_demo.benchmark uses the workers and databases of tasks_demo.lab"),
    ],
)
def test_app_alone_is_refused_with_a_sentence(stranger: Stranger, installed: list[str], said: str) -> None:
    done = stranger.program(
        f"import bookshop, django\nfrom django.conf import settings\nsettings.INSTALLED_APPS += {installed!r}\ndjango.setup()\n"
    )
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("django.core.exceptions.ImproperlyConfigured: ")
    assert said in last
