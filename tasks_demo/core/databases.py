"""Whether a database can hold our tables (SQLite and PostgreSQL can), and a short way to run a statement on it.

Does **not** check the server's version or whether the tables exist (``manage.py doctor`` does).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import cache
from typing import Any

from django.db import connections

#: ``vendor`` of the supported Django backends.
VENDORS = frozenset({"sqlite", "postgresql"})


def unsupported(alias: str) -> str:
    """Return why our tables cannot be in the database of this alias, as a clause; empty: they can."""
    if alias not in connections.settings:
        known = ", ".join(map(repr, sorted(connections.settings)))
        return f"DATABASES has no database {alias!r}, which a router or `using` names; it has {known}"
    connection = connections[alias]
    if connection.vendor in VENDORS:
        return ""
    return f"the database {alias!r} is {connection.display_name}, and only SQLite and PostgreSQL are supported"


def execute(alias: str, statement: str, parameters: Sequence[Any]) -> tuple[int, list[Any]]:
    """Run a statement of ours; return the number of rows that it changed, and those that it returns. Raises Django's errors.

    For what every job runs: it uses the driver's cursor, because Django's takes longer than SQLite. Django's query log and
    ``execute_wrapper`` do not see the statement. Placeholders are ``%s``, and ``%%`` is a percent sign, on SQLite too.
    A backend that is not Django's own gets Django's cursor, where it may prepare the statement: django-tenants chooses the
    tenant's schema there.
    """
    connection: Any = connections[alias]
    if not type(connection).__module__.startswith("django."):
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.rowcount, cursor.fetchall() if cursor.description else []
    connection.validate_thread_sharing()
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    text = _with_question_marks(statement) if connection.vendor == "sqlite" else statement
    # Closed even if a traceback keeps it: an open cursor keeps a closed SQLite connection, and its write lock, alive.
    with connection.wrap_database_errors, closing(connection.connection.cursor()) as cursor:
        cursor.execute(text, parameters)
        return cursor.rowcount, cursor.fetchall() if cursor.description else []


@cache
def _with_question_marks(statement: str) -> str:
    return "%".join(part.replace("%s", "?") for part in statement.split("%%"))
