"""The ledger lives in the database ``ops``, everything else in ``default``."""

from typing import Any

from django.db.models import Model

LEDGER = "tasks_demo"


class LedgerInOps:
    """An ordinary database router, as a project with two databases has one."""

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        return "ops" if model._meta.app_label == LEDGER else None

    def db_for_write(self, model: type[Model], **hints: Any) -> str | None:
        return "ops" if model._meta.app_label == LEDGER else None

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return (db == "ops") == (app_label == LEDGER)
