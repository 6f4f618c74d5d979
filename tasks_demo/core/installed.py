"""Warn when ``tasks_demo`` is not in INSTALLED_APPS: none of the other checks is registered then."""

from __future__ import annotations

import logging
from typing import Any

from celery import signals
from django.apps import apps
from django.core.checks import CheckMessage, Warning, register

logger = logging.getLogger(__name__)


@register("celery")
def check_installed(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """Return one warning if ``tasks_demo``, the app with the ledger, the checks and the commands, is not installed."""
    if apps.is_installed("tasks_demo"):
        return []
    return [
        Warning(
            "A pattern of tasks_demo is used, but 'tasks_demo' is not installed: the ledger records nothing, the tasks are not "
            "checked, and `manage.py doctor`, `relay` and `quarantine` are missing.",
            hint="Write 'tasks_demo' into INSTALLED_APPS, and run `python manage.py migrate`.",
            id="tasks_demo.W019",
        )
    ]


@signals.celeryd_after_setup.connect(weak=False, dispatch_uid="tasks_demo.core.installed")
def _log_at_worker_boot(**_: Any) -> None:
    for message in check_installed():
        if not message.is_silenced():
            logger.warning("%s: %s %s", message.id, message.msg, message.hint)
