"""Which databases can hold our tables: SQLite and PostgreSQL. Asks settings only, no server.

What is **not** judged: the server's version, and whether the tables are there (``manage.py doctor`` looks at those).
"""

from __future__ import annotations

from django.db import connections

#: The databases whose SQL we speak, by the name that Django's backends give them.
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
