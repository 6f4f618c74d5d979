"""Examines the tables that jobs need: whether they exist, the outbox's backlog, parked messages, and gaps in the ledger."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC
from typing import Any

from django.apps import apps
from django.db import DatabaseError, connections, router
from django.db.models.functions import Now

from tasks_demo.checks.setup import Setup, home_of, tables_of
from tasks_demo.core import clock
from tasks_demo.core.conf import settings
from tasks_demo.core.databases import unsupported
from tasks_demo.core.wording import counted, listed, times
from tasks_demo.doctor.findings import Finding, ok, reason, unusable, warn
from tasks_demo.ledger.database import alias as ledger_alias
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.ledger.queries import RECENT, gaps
from tasks_demo.outbox.table import overdue
from tasks_demo.patterns import DedupLock
from tasks_demo.records.models import Fence, OutboxMessage, Parked

PART = "records"
#: A message that has been due for longer than this means that no relay publishes: a warning, and a failure. Seconds.
LATE, TOO_LATE = 10.0, 60.0
#: Maximum number of tasks that a row names.
NAMED = 3


def records(setup: Setup) -> list[Finding]:
    """Return the findings about tables and backlogs. Closes the connections of its thread."""
    try:
        return [*_tables(setup), *_outbox(setup), *_parked(setup), *_gaps()]
    finally:
        connections.close_all()


def _needed(setup: Setup) -> dict[tuple[str, Any], list[str]]:
    """Return the tables that jobs need: (alias, model) -> names of the tasks, none for the ledger, which all tasks use."""
    found: dict[tuple[str, Any], list[str]] = {}
    for task in setup.tasks:
        models = tables_of(task)
        if isinstance(task, DedupLock) and apps.is_installed("tasks_demo.records"):
            models = (*models, Fence)
        for model in models:
            found.setdefault((home_of(task, model), model), []).append(task.name)
    if settings.LEDGER:
        for model in (Event, Tally):
            found[ledger_alias(), model] = []
    return found


def _tables(setup: Setup) -> Iterator[Finding]:
    there: dict[str, set[str]] = {}
    missing = False
    needed = _needed(setup)
    for (alias, model), tasks in sorted(needed.items(), key=lambda item: (item[0][0], item[0][1]._meta.db_table)):
        table = model._meta.db_table
        if why := unsupported(alias):
            fix = "Correct the router, or `using`: these tables need SQLite or PostgreSQL."
            yield unusable(PART, f"table {table}", f"{why}{_for(tasks)}", fix)
            missing = True
            continue
        if alias not in there:
            try:
                there[alias] = set(connections[alias].introspection.table_names())
            except DatabaseError:
                there[alias] = {each._meta.db_table for _, each in needed}  # the part "database" reports the error
        if table in there[alias]:
            continue
        missing = True
        where = next((other for other in connections if _has(other, table, there)), None)
        seen = f"missing in the database {alias!r}, where the router writes it{_for(tasks)}"
        fix = f"Run `python manage.py migrate --database {alias}`."
        if not apps.is_installed("tasks_demo.records") and model._meta.app_label == "tasks_demo_records":
            fix = f"Write 'tasks_demo.records' into INSTALLED_APPS. {fix}"
        elif not router.allow_migrate_model(alias, model):
            fix = (
                f"The router's allow_migrate forbids the table there: allow {model._meta.app_label} in {alias!r}. {fix}"
            )
        elif where:
            seen += f"; it is in {where!r}"
        yield unusable(PART, f"table {table}", seen, fix)
    if not missing:
        homes = ", ".join(sorted({alias for alias, _ in needed})) or "none needed"
        yield ok(PART, "tables", f"all {counted(len(needed), 'table')} that jobs need exist ({homes})")


def _has(alias: str, table: str, there: dict[str, set[str]]) -> bool:
    if alias not in there:
        try:
            there[alias] = set(connections[alias].introspection.table_names())
        except Exception:  # noqa: BLE001  (any backend's error; this only improves a message)
            there[alias] = set()
    return table in there[alias]


def _for(tasks: list[str]) -> str:
    if not tasks:
        return " (the ledger)"
    return f": jobs of {listed(sorted(set(tasks)), NAMED)} are deferred and do not run"


def _aliases(setup: Setup, model: Any) -> list[str]:
    if not apps.is_installed("tasks_demo.records"):
        return []
    named = {home_of(task, model) for task in setup.tasks}
    return sorted(alias for alias in named | {home_of(None, model)} if not unsupported(alias))


def _outbox(setup: Setup) -> Iterator[Finding]:
    for alias in _aliases(setup, OutboxMessage):
        with suppress(DatabaseError):  # a missing table has its own row
            open_rows = OutboxMessage.objects.using(alias).filter(finished_at=None)
            late, what = overdue(alias), f"outbox in {alias}"
            due, failing = open_rows.filter(due_at__lte=Now()).count(), open_rows.filter(failures__gt=0)
            refused = failing.order_by("-failures", "id").first()
            if late > LATE:
                seen = f"{counted(due, 'message')} due, the first for {late:.0f} s: no relay is publishing"
                row = warn(PART, what, seen, "Start `python manage.py relay`, or look at its log.")
                if late > TOO_LATE:
                    row = unusable(PART, what, seen, row.fix)
                yield row
            elif due or OutboxMessage.objects.using(alias).exists():
                yield ok(PART, what, f"{open_rows.count()} not ended, {due} due")
            if refused is not None:
                seen = f"{counted(failing.count(), 'message')} could not be published; "
                seen += f"{refused.task}, {times(refused.failures)}: {refused.error[:200]}"
                yield warn(PART, f"refused in {alias}", seen, "See the outbox in the admin, filter: failing.")


def _gaps() -> Iterator[Finding]:
    """Report periods in which the ledger could not write."""
    if not settings.LEDGER or unsupported(router.db_for_write(Event)):
        return
    with suppress(DatabaseError):  # a missing table has its own row
        found = gaps(clock.from_epoch(time.time() - RECENT))
        if found is None:
            yield ok(PART, "gaps in the ledger", "none in the last 24 h")
            return
        seen = f"{found.sentence}. First at {found.since:%Y-%m-%d %H:%M:%S}, last until {found.until:%Y-%m-%d %H:%M:%S} UTC"
        fix = "Find out why its database did not answer in time. Jobs continued. `manage.py timeline` shows what is recorded."
        yield warn(PART, "gaps in the ledger", seen, fix)


def _parked(setup: Setup) -> Iterator[Finding]:
    for alias in _aliases(setup, Parked):
        try:
            rows = Parked.objects.using(alias).filter(state=Parked.State.PARKED)
            many, first = rows.count(), rows.order_by("id").first()
        except DatabaseError as error:
            if any(alias == known for known, model in _needed(setup) if model is Parked):
                continue  # a missing table has its own row
            yield warn(PART, f"parked in {alias}", f"unknown: {reason(error)}", "Run `python manage.py migrate`.")
            continue
        if first is None:
            yield ok(PART, f"parked in {alias}", "none")
            continue
        since = clock.aware(first.parked_at).astimezone(UTC)
        seen = (
            f"{counted(many, 'message')} without a decision, the first since {since:%Y-%m-%d %H:%M} UTC ({first.task})"
        )
        option = "" if alias == router.db_for_write(Parked) else f" --using {alias}"
        yield warn(PART, f"parked in {alias}", seen, f"See `python manage.py quarantine{option}`, or the admin.")
