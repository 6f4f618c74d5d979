"""Deletes old history from the ledger in small commits: each tally with its events, then effects that no tally counts any more.

Open jobs are kept, however old: waiting, running, retrying, parked, or ended if their books have not been read since. Effects
belong to an operation, which several task IDs may share; they are kept until its last tally is deleted, so the counts of the
remaining tallies never change. The newest entries of each book are kept too, because a reader that lost its cursor continues
from them. The book's cursor records the highest number deleted, so that an entry that is read again is not appended again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import Error, connections
from django.db.models import Q

from tasks_demo.ledger.database import TALLIES_LOCK, alias, unsupported
from tasks_demo.ledger.events import EFFECT
from tasks_demo.ledger.models import UNSETTLED, Event, Outcome, Tally
from tasks_demo.ledger.rollups import refold

__all__ = ["Pruned", "prune", "unsupported"]
#: Tallies and events per transaction. One transaction holds SQLite's write lock for about ten milliseconds.
TALLIES_AT_ONCE, EVENTS_AT_ONCE = 200, 1000
#: Maximum pause between two transactions, seconds.
PAUSE_SECONDS = 0.1
#: The newest entries of each book that are kept at any age, because readers read them again.
NEWEST_KEPT = 200
#: The job has ended, according to Celery.
ENDED = Q(outcome__in=[Outcome.SUCCEEDED, Outcome.FAILED, Outcome.EXPIRED, Outcome.REVOKED, Outcome.REJECTED])


@dataclass(slots=True)
class Pruned:
    """The number of rows deleted, or that would be deleted. ``open``: old task IDs that are kept because they have not ended."""

    tallies: int = 0
    events: int = 0
    open: int = 0


def prune(
    before: datetime,
    *,
    parked: Callable[[Sequence[str]], Iterable[str]] = lambda task_ids: task_ids,
    dry_run: bool = False,
    progress: Callable[[Pruned], None] = lambda pruned: None,
) -> Pruned:
    """Delete jobs that ended before this time. Do not call it inside a transaction.

    ``parked``: given task IDs that were parked, returns those without a decision; they are kept. ``dry_run``: only count.
    ``progress``: called after each transaction. Raises the database's errors; rows that were deleted before the error stay
    deleted, and the next call continues.
    """
    pruned = Pruned()
    _tallies(before, parked, dry_run, pruned, progress)
    _left_over(before, dry_run, pruned, progress)
    if pruned.tallies and not dry_run:
        refold(before)
    return pruned


def _tallies(
    before: datetime, parked: Callable[[Sequence[str]], Iterable[str]], dry_run: bool, pruned: Pruned, progress: Any
) -> None:
    old = Tally.objects.using(alias()).filter(first_at__lt=before, last_at__lt=before).order_by("first_at", "task_id")
    known = old.values_list("first_at", "task_id", "outcome")
    pruned.open = old.exclude(ENDED & ~UNSETTLED).exclude(outcome=Outcome.PARKED).count()
    after = Q()
    while rows := list(known.filter(after, Q(outcome=Outcome.PARKED) | ENDED & ~UNSETTLED)[:TALLIES_AT_ONCE]):
        first_at, last, _ = rows[-1]
        after = Q(first_at__gt=first_at) | Q(first_at=first_at, task_id__gt=last)
        held = [task_id for _, task_id, outcome in rows if outcome == Outcome.PARKED]
        undecided = set(parked(held)) if held else set()
        pruned.open += len(undecided)
        task_ids = [task_id for _, task_id, _ in rows if task_id not in undecided]
        if dry_run:
            pruned.tallies += len(task_ids)
            pruned.events += Event.objects.using(alias()).filter(task_id__in=task_ids).exclude(kind=EFFECT).count()
        elif task_ids:
            with _transaction() as cursor:
                # Check again: a copy may have arrived since the query.
                deleted = _delete(cursor, "tasks_demo_tally", "task_id", task_ids, "AND last_at < %s", _adapted(before))
                pruned.tallies += len(deleted)
                events = _delete(cursor, "tasks_demo_event", "task_id", deleted, "AND kind <> %s", EFFECT)
                pruned.events += len(events)
        progress(pruned)


def _left_over(before: datetime, dry_run: bool, pruned: Pruned, progress: Any) -> None:
    """Delete old events that no tally counts: of workers, of runs, and of operations whose task IDs are deleted or unknown."""
    events = (
        Event.objects.using(alias()).order_by("id").values_list("id", "at", "kind", "task_id", "operation", "source")
    )
    newest: dict[str, int] = {}
    last = 0
    while rows := list(events.filter(id__gt=last)[:EVENTS_AT_ONCE]):
        last = rows[-1][0]
        old = [row for row in rows if row[1] < before]
        if not old:
            break  # rows with higher IDs are newer
        ids = [row[0] for row in old if row[2] != EFFECT]
        sources = {row[0]: row[5] for row in old if row[2] == EFFECT and not _among_the_newest(row[5], newest)}
        effects = list(sources)
        if dry_run:
            pruned.events += Event.objects.using(alias()).filter(id__in=ids, task_id="").count()
            continue
        with _transaction(alone=True) as cursor:
            for some, column in ((ids, "task_id"), (effects, "operation")):
                tally = f"SELECT 1 FROM tasks_demo_tally AS t WHERE t.{column} = tasks_demo_event.{column}"  # noqa: S608
                deleted = _delete(cursor, "tasks_demo_event", "id", some, f"AND NOT EXISTS ({tally})")
                pruned.events += len(deleted)
                _store_highest(cursor, [sources[one] for one in deleted if one in sources])
        progress(pruned)


def _store_highest(cursor: Any, sources: Iterable[str]) -> None:
    """Store in each book's cursor the highest number that was deleted."""
    highest: dict[str, int] = {}
    for source in sources:
        book, _, number = source.rpartition(":")
        if number.isdecimal():
            highest[f"{book}:"] = max(int(number), highest.get(f"{book}:", 0))
    for book, last in sorted(highest.items()):
        cursor.execute(
            "UPDATE tasks_demo_bookcursor SET pruned = %s WHERE source = %s AND pruned < %s", [last, book, last]
        )


def _among_the_newest(source: str, newest: dict[str, int]) -> bool:
    book, _, number = source.rpartition(":")
    if not number.isdecimal():
        return False
    if book not in newest:
        effects = Event.objects.using(alias()).filter(kind=EFFECT, source__startswith=f"{book}:").order_by("-id")
        latest = effects.values_list("source", flat=True).first() or source
        newest[book] = int(latest.rpartition(":")[2])
    return int(number) > newest[book] - NEWEST_KEPT


def _delete(cursor: Any, table: str, column: str, values: Sequence[Any], more: str = "", *given: Any) -> list[Any]:
    """Delete the rows with these values. Returns the value of each deleted row."""
    if not values:
        return []
    places = ", ".join(["%s"] * len(values))
    cursor.execute(
        f"DELETE FROM {table} WHERE {column} IN ({places}) {more} RETURNING {column}",  # noqa: S608  (names of our own)
        [*values, *given],
    )
    return [value for (value,) in cursor.fetchall()]


def _adapted(moment: datetime) -> Any:
    return connections[alias()].ops.adapt_datetimefield_value(moment)


@contextmanager
def _transaction(*, alone: bool = False) -> Iterator[Any]:
    """Run a short transaction, then pause for as long as it took (at most PAUSE_SECONDS), so that other writers get their turn.
    On SQLite it begins by taking the write lock.

    ``alone``: on PostgreSQL, no tally can be created meanwhile.
    """
    connection = connections[alias()]
    began = time.monotonic()
    with connection.cursor() as cursor:
        cursor.execute("BEGIN IMMEDIATE" if connection.vendor == "sqlite" else "BEGIN")
        try:
            if connection.vendor == "postgresql":
                cursor.execute(f"SELECT pg_advisory_xact_lock{'' if alone else '_shared'}({TALLIES_LOCK})")
            yield cursor
            cursor.execute("COMMIT")
        except BaseException:
            with suppress(Error):
                cursor.execute("ROLLBACK")
            raise
    time.sleep(min(time.monotonic() - began, PAUSE_SECONDS))
