"""The patterns' tables: label ``durable``."""

from __future__ import annotations

from django.apps import AppConfig, apps


class DurableConfig(AppConfig):
    name = "tasks_demo.durable"
    label = "durable"
    verbose_name = "Durable records of the patterns"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from tasks_demo import installed  # noqa: F401  (says when ``tasks_demo`` itself is not installed)

        if apps.is_installed("django.contrib.admin"):
            from tasks_demo.durable import admin_operations, admin_outbox  # noqa: F401  (registers them)
