"""Which database holds the ledger, and whether it can."""

from __future__ import annotations

from typing import Any

from django.db import router

from tasks_demo.core import databases
from tasks_demo.core.conf import in_tests, settings
from tasks_demo.ledger.models import Event

#: PostgreSQL's advisory lock on the tallies: shared by those who write them, exclusive for those who count effects.
TALLIES_LOCK = 0x7461736B735F7461


def off_in_tests() -> bool:
    """Whether the ledger is off because this is a test run, and TASKS_DEMO_LEDGER_IN_TESTS is not set.

    The ledger has a connection of its own: a test's rollback would leave its rows, PostgreSQL could not drop the test database,
    and a database in SQLite's memory would be another one.
    """
    return in_tests() and not settings.LEDGER_IN_TESTS


def alias() -> str:
    """The alias of the ledger's database: where Django's routers write events."""
    return router.db_for_write(Event)


def unsupported() -> str:
    """Why the ledger cannot be kept in its database, as a sentence; empty if it can."""
    why = databases.unsupported(alias())
    if not why:
        return ""
    return (
        f"The ledger cannot be kept: {why}. Nothing is recorded, and jobs go on without it. Send the app tasks_demo to another "
        "database with a router, or set TASKS_DEMO_LEDGER = False."
    )


def written(model: Any) -> Any:
    """The rows in the database that is written to: what a lagging replica does not have yet would be called lost."""
    return model.objects.using(router.db_for_write(model))
