"""The app of the patterns' own tables: claims, attempts, inbox, outbox, parked messages."""

from __future__ import annotations

from django.apps import AppConfig


class RecordsConfig(AppConfig):
    name = "tasks_demo.records"
    label = "tasks_demo_records"  # "records" may be an app of yours
    verbose_name = "Records of the delivery patterns"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from tasks_demo.core import installed  # noqa: F401  (warns if ``tasks_demo`` itself is not installed)
