"""The application: arms the ledger in every process that has Django."""

from __future__ import annotations

from django.apps import AppConfig


class TasksDemoConfig(AppConfig):
    name = "tasks_demo"
    verbose_name = "Task deliveries"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from tasks_demo import checks, ledger  # noqa: F401  (checks register themselves)
        from tasks_demo.hooks import presence, signals  # noqa: F401  (they connect their receivers)

        ledger.arm()
