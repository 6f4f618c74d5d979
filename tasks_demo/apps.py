"""The Django app: starts the ledger and registers the transport in every process that sets up Django."""

from __future__ import annotations

from django.apps import AppConfig


class TasksDemoConfig(AppConfig):
    name = "tasks_demo"
    verbose_name = "Task deliveries"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from tasks_demo import checks, ledger, transport  # noqa: F401  (checks and transport register themselves)
        from tasks_demo.hooks import presence, signals  # noqa: F401  (they connect their receivers)

        ledger.start_recording()
