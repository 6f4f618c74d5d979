"""Which worker had a task ID, and which task IDs a worker had, from the events that record starts and receipts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import connections
from django.db.models import BooleanField, Exists, OuterRef, QuerySet
from django.db.models.expressions import RawSQL

from tasks_demo.dashboard.keyset import Tallies
from tasks_demo.ledger.models import Event, Tally

#: A literal, not a parameter: SQLite uses the partial index on starts only if it can see the value.
_STARTED = RawSQL("kind = 'started'", (), output_field=BooleanField())

#: Maximum number of names that a list of distinct names looks at, and of events per task ID.
MOST_NAMES, MOST_EVENTS = 500, 100


def workers_of(task_ids: Sequence[str]) -> dict[str, str]:
    """Map each of these task IDs to the last worker that received or started it; those that no worker had are missing."""
    events = Event.objects.filter(task_id__in=task_ids, kind__in=["received", "started"]).order_by("id")
    return dict(events.values_list("task_id", "worker")[: MOST_EVENTS * max(1, len(task_ids))])


def started_by(workers: Sequence[str], most: int) -> tuple[list[str], bool]:
    """Return the task IDs of the latest ``most`` starts by these workers, and whether they started more."""
    return latest_of(Event.objects.filter(_STARTED), "worker", workers, "at", most)


def latest_of(rows: QuerySet[Any], column: str, names: Sequence[str], moment: str, most: int) -> tuple[list[str], bool]:
    """Return the task IDs of the latest ``most`` rows that have one of these names, and whether there are more.

    An index on both columns serves it: nothing older than the latest of the names' moments that are ``most`` back is read.
    """
    rows = rows.order_by(f"-{moment}")
    if len(names) == 1:
        rows = rows.filter(**{column: names[0]})  # not IN, for which SQLite would sort all of them
    else:
        each = (rows.filter(**{column: name}).values_list(moment, flat=True)[most : most + 1] for name in names)
        ends = [at for some in each for at in some]
        rows = rows.filter(**{f"{column}__in": names, **({f"{moment}__gte": max(ends)} if ends else {})})
    found = list(rows.values_list("task_id", flat=True)[: most + 1])
    return list(dict.fromkeys(found[:most])), len(found) > most


def ever_started_by(tallies: Tallies, worker: str) -> Tallies:
    """Return those that this worker started, without a limit. Slow: for an export."""
    return tallies.filter(Exists(Event.objects.filter(task_id=OuterRef("task_id"), kind="started", worker=worker)))


def _names(table: str, column: str, condition: str = "1 = 1") -> list[str]:
    """Return the distinct values of an indexed column, at most MOST_NAMES. Skips from value to value in its index."""
    alias = Event.objects.db
    # The arguments are names of our own.
    first = f"SELECT MIN({column}) FROM {table} WHERE {condition}"  # noqa: S608
    with connections[alias].cursor() as cursor:
        cursor.execute(
            f"WITH RECURSIVE known(name) AS ({first} UNION ALL "  # noqa: S608
            f"SELECT ({first} AND {column} > known.name) FROM known WHERE known.name IS NOT NULL) "
            f"SELECT name FROM known WHERE name <> '' LIMIT {MOST_NAMES}"
        )
        return [name for (name,) in cursor.fetchall()]


def worker_names() -> list[str]:
    """Return the names of the workers that have started a job."""
    return _names(Event._meta.db_table, "worker", "kind = 'started'")


def task_names() -> list[str]:
    """Return the names of the tasks of which the ledger has a task ID."""
    return _names(Tally._meta.db_table, "task")
