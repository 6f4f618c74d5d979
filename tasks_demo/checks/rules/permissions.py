"""Rules about what people may do and see in the admin: which tasks they may publish, and which arguments are hidden."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from celery import current_app

from tasks_demo.checks.rules.base import Finding, rule
from tasks_demo.checks.setup import Setup
from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import InvalidSetting


@rule("W026")
def publishable_tasks(setup: Setup) -> Iterator[Finding]:
    """TASKS_DEMO_PUBLISHABLE or TASKS_DEMO_MASKED is not a list of names, matches no task, or allows every task."""
    current: Any = current_app
    if setup.app is not current._get_current_object():
        return  # people publish through the project's current app
    try:
        patterns = settings.PUBLISHABLE
    except InvalidSetting as error:
        yield Finding(f"{error} Nothing can be published in the admin.", "Write a list of task names or globs.")
        patterns = []
    for pattern in patterns:
        if fnmatchcase("celery.backend_cleanup", pattern):
            yield Finding(
                f"TASKS_DEMO_PUBLISHABLE has {pattern!r}, which also allows Celery's own tasks.",
                "Write the names of tasks, or a glob with a prefix such as 'shop.*'.",
            )
        elif not any(fnmatchcase(name, pattern) for name in setup.app.tasks):
            yield Finding(
                f"TASKS_DEMO_PUBLISHABLE has {pattern!r}, which no registered task matches.",
                "Correct the name; `celery inspect registered` lists those of a worker.",
            )
    try:
        settings.MASKED  # noqa: B018  (reading the setting checks it)
    except InvalidSetting as error:
        yield Finding(f"{error} Until then every argument is hidden.", "Write a list of names.")
