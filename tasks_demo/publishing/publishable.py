"""Find registered tasks, and those that may be published in the admin (``TASKS_DEMO_PUBLISHABLE``)."""

from __future__ import annotations

import logging
from fnmatch import fnmatchcase
from typing import Any
from weakref import WeakSet

from celery import current_app

from tasks_demo.core.conf import settings
from tasks_demo.core.lifecycle import described
from tasks_demo.core.limited_log import limited_log

logger = logging.getLogger(__name__)


#: The loaders whose task modules this process has imported. Importing twice is harmless and slow: Celery runs Django's system
#: checks each time.
_imported: WeakSet[Any] = WeakSet()


def registered(name: str) -> Any:
    """Return the task of this name, or None. Imports the task modules once if necessary, because a web process may not have."""
    app: Any = current_app
    if name not in app.tasks and app.loader not in _imported:
        try:
            app.loader.import_default_modules()
            _imported.add(app.loader)
        except Exception as error:  # noqa: BLE001  (a task module may raise anything, and the page must open)
            limited_log(
                logger,
                logging.WARNING,
                ("import", name),
                "A task module cannot be imported, so its tasks cannot be published here: %s",
                described(error),
            )
    return app.tasks.get(name)


def publishable() -> list[str]:
    """Return the names of the tasks that may be published by hand, sorted. Raises InvalidSetting."""
    patterns = settings.PUBLISHABLE
    if not patterns:
        return []
    registered("")
    return sorted(name for name in current_app.tasks if any(fnmatchcase(name, pattern) for pattern in patterns))
