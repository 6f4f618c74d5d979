"""A backend for SQLite that sets the tenant when a cursor is made, as django-tenants does for PostgreSQL's search_path."""

from __future__ import annotations

from typing import Any

from django.db.backends.sqlite3.base import DatabaseWrapper as SQLite


class DatabaseWrapper(SQLite):
    tenant = "one"

    def _cursor(self, name: Any = None) -> Any:
        cursor = super()._cursor(name)  # type: ignore[misc]
        self.connection.create_function("tenant", 0, lambda tenant=self.tenant: tenant)
        return cursor
