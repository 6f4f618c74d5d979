"""Old history leaves the ledger in small commits: a tally and its events together, and last the effects that nobody counts now.

Whatever is open stays, however old: waiting, running, retrying, parked, or ended where the books have not been read since.
Effects belong to an operation, which several task IDs may share: they stay until its last tally is gone, so counts never change
under those that remain. The newest entries of each book stay too: its readers find by them how far they have come; and the
book's cursor keeps up to which number entries have left, so that one which is read again is not taken for a new one.
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

__all__ = ["Pruned", "prune", "unsupported"]
#: Tallies, and events, of one transaction. It holds SQLite's write lock for some ten milliseconds.
TALLIES_AT_ONCE, EVENTS_AT_ONCE = 200, 1000
#: Between two transactions, at most, seconds: others want to write, too.
PAUSE_SECONDS = 0.1
#: Entries of each book that stay, whatever their age: its readers look again at the last ones.
NEWEST_KEPT = 200
#: The end of a job, as far as Celery's word goes.
ENDED = Q(outcome__in=[Outcome.SUCCEEDED, Outcome.FAILED, Outcome.EXPIRED, Outcome.REVOKED, Outcome.REJECTED])


@dataclass(slots=True)
class Pruned:
    """How many are gone, or would be; ``open``: old task IDs that stay because they have not ended."""

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
    """Delete what ended before this moment. ``parked``: which of these task IDs, parked once, people have not decided about.

    Not inside a transaction. Raises the database's errors; what was committed until then is gone, and the next call goes on.
    """
    pruned = Pruned()
    _tallies(before, parked, dry_run, pruned, progress)
    _left_over(before, dry_run, pruned, progress)
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
                # Asked again: a copy that has come meanwhile is news.
                gone = _delete(cursor, "tasks_demo_tally", "task_id", task_ids, "AND last_at < %s", _adapted(before))
                pruned.tallies += len(gone)
                events = _delete(
                    cursor, "tasks_demo_event", "task_id", [str(one) for one in gone], "AND kind <> %s", EFFECT
                )
                pruned.events += len(events)
        progress(pruned)


def _left_over(before: datetime, dry_run: bool, pruned: Pruned, progress: Any) -> None:
    """Old events that no tally counts: of workers, of runs, of operations whose task IDs are gone, or were never heard of."""
    events = (
        Event.objects.using(alias()).order_by("id").values_list("id", "at", "kind", "task_id", "operation", "source")
    )
    newest: dict[str, int] = {}
    last = 0
    while rows := list(events.filter(id__gt=last)[:EVENTS_AT_ONCE]):
        last = rows[-1][0]
        old = [row for row in rows if row[1] < before]
        if not old:
            break  # by their numbers the others are younger still
        ids = [row[0] for row in old if row[2] != EFFECT]
        sources = {row[0]: row[5] for row in old if row[2] == EFFECT and not _among_the_newest(row[5], newest)}
        effects = list(sources)
        if dry_run:
            pruned.events += Event.objects.using(alias()).filter(id__in=ids, task_id="").count()
            continue
        with _transaction(alone=True) as cursor:
            for some, column in ((ids, "task_id"), (effects, "operation")):
                tally_s = f"SELECT 1 FROM tasks_demo_tally AS t WHERE t.{column} = tasks_demo_event.{column}"  # noqa: S608
                gone = _delete(cursor, "tasks_demo_event", "id", some, f"AND NOT EXISTS ({tally_s})")
                pruned.events += len(gone)
                _remember(cursor, [sources[one] for one in gone if one in sources])
        progress(pruned)


def _remember(cursor: Any, sources: Iterable[str]) -> None:
    """Note in the cursors of their books up to which number entries have left."""
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
    """Delete the rows with these values; returns the value of each that is gone."""
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
    """A short transaction that begins with the write lock on SQLite; ``alone``: while no tally can come into being."""
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
    time.sleep(min(time.monotonic() - began, PAUSE_SECONDS))  # as long as it took: half of the time is others'
