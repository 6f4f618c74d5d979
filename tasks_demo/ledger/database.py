"""Finds the ledger's database and checks whether it is supported."""

from __future__ import annotations

from typing import Any

from django.db import router

from tasks_demo.core import databases
from tasks_demo.core.conf import in_tests, settings
from tasks_demo.ledger.models import Event

#: PostgreSQL advisory lock on the tallies: shared for writers of tallies, exclusive for writers that count effects.
TALLIES_LOCK = 0x7461736B735F7461


def off_in_tests() -> bool:
    """Return whether the ledger is off because this is a test run and TASKS_DEMO_LEDGER_IN_TESTS is not set.

    The ledger has its own connection. So a test's rollback would not remove its rows, PostgreSQL could not drop the test
    database, and an in-memory SQLite database would be a different one.
    """
    return in_tests() and not settings.LEDGER_IN_TESTS


def alias() -> str:
    """Return the alias of the ledger's database: the one to which Django's routers write events."""
    return router.db_for_write(Event)


def unsupported() -> str:
    """Return a sentence that says why this database cannot hold the ledger, or an empty string if it can."""
    why = databases.unsupported(alias())
    if not why:
        return ""
    return (
        f"The ledger cannot be stored: {why}. Nothing is recorded; jobs run without it. Route the app tasks_demo to another "
        "database, or set TASKS_DEMO_LEDGER = False."
    )


def on_primary(model: Any) -> Any:
    """Return the model's rows from the primary: on a lagging replica, effects would be missing and their jobs be called lost."""
    return model.objects.using(router.db_for_write(model))
