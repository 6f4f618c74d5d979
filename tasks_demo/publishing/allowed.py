"""The registered tasks, and those of them that people may publish in the admin (``TASKS_DEMO_PUBLISHABLE``)."""

from __future__ import annotations

import logging
from fnmatch import fnmatchcase
from typing import Any

from celery import current_app

from tasks_demo.core.conf import settings
from tasks_demo.core.lifecycle import described
from tasks_demo.core.limited_log import limited_log

logger = logging.getLogger(__name__)


def registered(name: str) -> Any:
    """Return the task of this name, or None. A web process may not have imported the task modules: does it if necessary."""
    app: Any = current_app
    if name not in app.tasks:
        try:
            app.loader.import_default_modules()
        except Exception as error:  # noqa: BLE001  (a task module may raise anything, and the page must open)
            limited_log(
                logger, logging.WARNING, ("import", name), "A task module cannot be imported: %s", described(error)
            )
    return app.tasks.get(name)


def publishable() -> list[str]:
    """Return the names of the tasks that may be published by hand, sorted. Raises InvalidSetting."""
    patterns = settings.PUBLISHABLE
    if not patterns:
        return []
    registered("")
    return sorted(name for name in current_app.tasks if any(fnmatchcase(name, pattern) for pattern in patterns))
