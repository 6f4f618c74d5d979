"""Rules about the databases of our tables: the backend is supported, and tables of one transaction are in one database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.core.checks import ERROR
from django.db import router

from tasks_demo.checks.rules.base import Finding, rule
from tasks_demo.checks.setup import Setup, home_of, is_quarantined, tables_of
from tasks_demo.core import databases
from tasks_demo.core.conf import settings
from tasks_demo.ledger import database
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.records.models import Attempt, Decision, Parked


@rule("W018")
def unsupported_database(setup: Setup) -> Iterator[Finding]:
    """The tables of the ledger or of a pattern are in an unsupported or missing database, or split between several."""
    if settings.LEDGER and apps.is_installed("tasks_demo"):
        if why := database.unsupported():
            yield Finding(why, "DATABASE_ROUTERS names the database of each app.", level=ERROR)
        yield from _split("The ledger's tables", Event, Tally)
    for task in setup.tasks:
        for alias in {home_of(task, model): None for model in tables_of(task)}:
            if why := databases.unsupported(alias):
                yield Finding(
                    f"the records of its pattern cannot be stored: {why}. Every job is requeued, and none runs.",
                    "Route the app tasks_demo_records to SQLite or PostgreSQL with a router or using=..., or use a pattern "
                    "without records (AcksEarly; AcksLate and DedupLock with max_attempts=None).",
                    task.name,
                    ERROR,
                )
    if any(is_quarantined(task) and not task.using for task in setup.tasks):
        yield from _split("The quarantine's tables", Attempt, Parked, Decision)


def _split(what: str, first: Any, *others: Any) -> Iterator[Finding]:
    """Report models that one transaction writes although a router sends them to several databases."""
    home = router.db_for_write(first)
    for other in others:
        elsewhere = router.db_for_write(other)
        if elsewhere != home:
            yield Finding(
                f"{what} are written in one transaction, but the router sends {first.__name__} to {home!r} and {other.__name__} "
                f"to {elsewhere!r}: all are written to {home!r}, but pages and commands read {elsewhere!r}.",
                f"Route the whole app {first._meta.app_label!r} to one database.",
            )
