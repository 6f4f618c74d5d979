"""A project that installs only a part of the demo gets an error that names the missing part, before any command runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks_demo.demo.defaults import redis_address, set_defaults
from tests.integration.bookshop import Bookshop


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        (
            ["tasks_demo.demo"],
            'cannot do without other apps. Add to INSTALLED_APPS: "tasks_demo.demo.shop", "tasks_demo.demo.bank",',
        ),
        (["tasks_demo.lab"], 'INSTALLED_APPS: "tasks_demo.demo", "tasks_demo.demo.shop", "tasks_demo.demo.bank",'),
        (["tasks_demo.benchmark"], "tasks_demo.benchmark needs the workers and databases of tasks_demo.lab"),
    ],
)
def test_app_alone_is_refused_with_a_sentence(bookshop: Bookshop, installed: list[str], said: str) -> None:
    done = bookshop.program(
        f"import bookshop, django\nfrom django.conf import settings\nsettings.INSTALLED_APPS += {installed!r}\ndjango.setup()\n"
    )
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("django.core.exceptions.ImproperlyConfigured: ")
    assert said in last


def test_demo_settings_default_to_embedded_servers_below_base_dir(tmp_path: Path) -> None:
    given = SimpleNamespace(BASE_DIR=tmp_path, BANK_URL="http://bank.example:80")
    set_defaults(given)
    assert (tmp_path / ".state", True, False) == (given.STATE_DIR, given.REDIS_IS_EMBEDDED, given.BANK_IS_EMBEDDED)
    assert redis_address(tmp_path / ".state") == given.REDIS_URL
    assert given.TASKS_DEMO_BANK_URL == given.BANK_URL == "http://bank.example:80"


def test_demo_settings_keep_what_a_project_sets(tmp_path: Path) -> None:
    given = SimpleNamespace(STATE_DIR=str(tmp_path), REDIS_URL="redis://r/0", TASKS_DEMO_BANK_URL="http://b")
    set_defaults(given)
    assert (tmp_path, "redis://r/0", False) == (given.STATE_DIR, given.REDIS_URL, given.REDIS_IS_EMBEDDED)
    assert (given.BANK_IS_EMBEDDED, given.TASKS_DEMO_BANK_URL) == (True, "http://b")
