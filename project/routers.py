"""Routes each application to its database."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS
from django.db.models import Model


def home(app_label: str) -> str:
    """Return the alias of an application's database."""
    alias: str = settings.DATABASE_OF_APP.get(app_label, DEFAULT_DB_ALIAS)
    return alias


class OneHomePerApp:
    """Reads, writes and migrates every application in its own database only (``settings.DATABASE_OF_APP``)."""

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        return home(model._meta.app_label)

    def db_for_write(self, model: type[Model], **hints: Any) -> str | None:
        return home(model._meta.app_label)

    def allow_relation(self, first: Model, second: Model, **hints: Any) -> bool | None:
        return home(first._meta.app_label) == home(second._meta.app_label)

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        return db == home(app_label)
