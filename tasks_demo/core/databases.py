"""Whether a database can hold our tables: SQLite and PostgreSQL can. Reads settings, connects to nothing.

Does **not** check the server's version or whether the tables exist (``manage.py doctor`` does).
"""

from __future__ import annotations

from django.db import connections

#: ``vendor`` of the supported Django backends.
VENDORS = frozenset({"sqlite", "postgresql"})


def unsupported(alias: str) -> str:
    """Why our tables cannot be in the database of this alias, as a clause; empty: they can."""
    if alias not in connections.settings:
        known = ", ".join(map(repr, sorted(connections.settings)))
        return f"DATABASES has no database {alias!r}, which a router or `using` names; it has {known}"
    connection = connections[alias]
    if connection.vendor in VENDORS:
        return ""
    return f"the database {alias!r} is {connection.display_name}, and only SQLite and PostgreSQL are supported"
