"""Rules about the databases that hold our tables: the ledger and the patterns speak to SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

from django.apps import apps
from django.db import connections, router

from tasks_demo.checks.rules.base import Finding, rule
from tasks_demo.checks.setup import Setup
from tasks_demo.core.conf import settings
from tasks_demo.ledger.store import VENDORS, unsupported
from tasks_demo.outbox.enqueue import Outbox
from tasks_demo.patterns import ClaimFirst, Inbox
from tasks_demo.patterns.base import PatternTask
from tasks_demo.records.models import Claim


@rule("W018")
def database_of_another_kind(setup: Setup) -> Iterator[Finding]:
    """A ledger or a pattern whose tables would be in a database that we do not speak to."""
    if settings.LEDGER and apps.is_installed("tasks_demo") and (why := unsupported()):
        yield Finding(why, "Jobs go on without it.")
    for task in setup.tasks:
        if isinstance(task, ClaimFirst | Inbox | Outbox) or (
            isinstance(task, PatternTask) and task.max_attempts is not None
        ):
            alias = task.using or router.db_for_write(Claim)
            if alias in connections and connections[alias].vendor not in VENDORS:
                yield Finding(
                    f"the records of its pattern would be in {alias!r}, which is {connections[alias].display_name}: they need "
                    "SQLite or PostgreSQL. Every job is requeued, and none runs.",
                    "Send the app tasks_demo_records to such a database with a router or using=..., or use a pattern without "
                    "records (AcksEarly; AcksLate and DedupLock with max_attempts=None).",
                    task.name,
                )
