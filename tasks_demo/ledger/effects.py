"""Effects enter the ledger from the books of the outside world, never from a worker's word (but see ``books.record_effect``).

Books are read by number, from a cursor on. Each has one, stored for its name and identity: what it costs to read them depends on
what is new in them. Reading twice, or from two processes at once, counts nothing twice: the books' name, their identity
and the entry's number are the event's source.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from django.db import connections, router
from django.db.models import Count, Exists, F, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce

from tasks_demo.core import clock
from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import LedgerUnavailable
from tasks_demo.ledger import books as registry
from tasks_demo.ledger.books import OVERLAP, Books, Effect
from tasks_demo.ledger.events import EFFECT, SETTLED, EventData
from tasks_demo.ledger.models import IN_A_RUN, UNSETTLED, BookCursor, BooksRead, Event, Tally
from tasks_demo.ledger.pruning import NEWEST_KEPT
from tasks_demo.ledger.store import store

#: Events of one transaction: long enough to be quick, short enough not to keep other writers waiting.
BATCH = 500
#: A task is settled only if it ended this long before the books were read, seconds: clocks differ.
MARGIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class State:
    """How a book was read last. ``as_of`` None: never; ``trouble`` empty: nothing is wrong; else ``since`` when."""

    name: str
    as_of: datetime | None = None
    trouble: str = ""
    since: datetime | None = None


def read_books() -> list[State]:
    """Read every registered book, and settle the tasks of those that were read to the end. Raises nothing that books can cause.

    Each in a thread of its own that is given up after TASKS_DEMO_BOOKS_TIMEOUT_SECONDS without an entry: one that hangs, or
    fails, keeps none of the others from being read. Raises InvalidSetting, LedgerUnavailable, DatabaseError.
    """
    for name in sorted(registry.names()):
        began = time.time()
        trouble = _in_time(name)
        if not trouble:
            settle(before=began - MARGIN_SECONDS, books=name)
        _note(name, began, trouble)
    return states()


def states() -> list[State]:
    """How the registered books were read last. Writes nothing."""
    known = {row.name: row for row in _written(BooksRead).filter(name__in=registry.names())}
    return [
        State(name, row.read_at, row.trouble, row.failing_since) if (row := known.get(name)) else State(name)
        for name in sorted(registry.names())
    ]


def _written(model: Any) -> Any:
    """The rows where they are written: a replica that a router reads from may lag, and be taken for a loss."""
    return model.objects.using(router.db_for_write(model))


def _note(name: str, began: float, trouble: str) -> None:
    moment = clock.moment(began)
    if trouble:
        row, _ = BooksRead.objects.get_or_create(name=name)
        row.trouble, row.failing_since = trouble, row.failing_since or moment
        row.save()
    else:
        BooksRead.objects.update_or_create(
            name=name, defaults={"read_at": moment, "trouble": "", "failing_since": None}
        )


#: Readings that were given up and still hang: no second one is begun.
_hanging: dict[str, _Reading] = {}


class _Reading(threading.Thread):
    """Copies one book; says when it last got anything, and what went wrong."""

    def __init__(self, name: str) -> None:
        super().__init__(name=f"books {name}", daemon=True)
        self.book = name
        self.trouble = ""
        self.ticked = time.monotonic()

    def run(self) -> None:
        try:
            copy(self.book, registry.registered(self.book), self._tick)
        except Exception as error:  # noqa: BLE001  (books are anybody's)
            self.trouble = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:500]
        finally:
            connections.close_all()

    def _tick(self) -> None:
        self.ticked = time.monotonic()


def _in_time(name: str) -> str:
    """Read this book; why that failed, or an empty text."""
    reading = _hanging.pop(name, None) or _Reading(name)
    patience = float(settings.BOOKS_TIMEOUT_SECONDS)
    if reading.ident is None:
        reading.start()
    while reading.is_alive():
        left = reading.ticked + patience - time.monotonic()
        if left <= 0:
            _hanging[name] = reading
            return f"no answer within {patience:g} s"
        reading.join(left)
    return reading.trouble


def copy(name: str, books: Books, tick: Callable[[], None] = lambda: None) -> int:
    """Copy the entries of these books that the ledger does not have yet; returns how many. Raises what the books raise."""
    prefix = f"{name}:{books.identity()[:60]}:"
    snapshot = books.snapshot()  # before anything is read
    cursor = _written(BookCursor).filter(source=prefix).first() or _found_again(prefix)
    after = books.resume(cursor.number, cursor.snapshot)
    copied, last = 0, cursor.number
    for batch in _batches(books.effects(after), tick):
        copied += _append(lambda batch=batch: _unknown(name, prefix, batch))  # type: ignore[misc]
        if batch[-1].number > last:
            last = batch[-1].number
            _move(prefix, last, snapshot)
    if snapshot != cursor.snapshot:
        _move(prefix, last, snapshot)
    return copied


def _found_again(prefix: str) -> BookCursor:
    """A cursor for books that have none: they are new, or its row was lost, and the newest entries here tell where it was."""
    events = _written(Event).filter(kind=EFFECT, source__startswith=prefix).order_by("-id")
    latest = [source.removeprefix(prefix) for source in events.values_list("source", flat=True)[:NEWEST_KEPT]]
    number = max((int(text) for text in latest if text.isdecimal()), default=0)
    pruned = max(0, number - OVERLAP)
    return BookCursor.objects.get_or_create(source=prefix, defaults={"number": number, "pruned": pruned})[0]


def _move(prefix: str, number: int, snapshot: str) -> None:
    BookCursor.objects.update_or_create(source=prefix, defaults={"number": number, "snapshot": snapshot[:60]})


def _batches(effects: Iterable[Effect], tick: Callable[[], None]) -> Iterable[list[Effect]]:
    batch: list[Effect] = []
    for effect in effects:
        tick()
        batch.append(effect)
        if len(batch) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _append(missing: Callable[[], Sequence[EventData]]) -> int:
    """Append the rows that are missing; returns how many. Another reader may append some of them at the same moment."""
    rows = missing()
    try:
        store.append(rows)
    except LedgerUnavailable:
        rows = missing()
        store.append(rows)
    return len(rows)


def _unknown(name: str, prefix: str, batch: Sequence[Effect]) -> list[EventData]:
    """The entries that the ledger neither has nor had, as its rows."""
    now = time.time()
    sources = [f"{prefix}{effect.number}" for effect in batch]
    there = set(_written(Event).filter(source__in=sources).values_list("source", flat=True))
    # Asked after that: `prune` moves it in the transaction that removes the entries.
    pruned = _written(BookCursor).filter(source=prefix).values_list("pruned", flat=True).first() or 0
    operations = {effect.operation for effect in batch}
    homes = {
        operation: (pattern, run)
        for operation, pattern, run in _written(Tally)
        .filter(operation__in=operations)
        .order_by("first_at")
        .values_list("operation", "pattern", "run")
    }
    rows = []
    for source, effect in zip(sources, batch, strict=True):
        if source not in there and effect.number > pruned:
            pattern, run = homes.get(effect.operation, ("", ""))
            rows.append(
                EventData(
                    at=effect.at or now,
                    kind=EFFECT,
                    source=source,
                    task_id=effect.task_id,
                    operation=effect.operation,
                    pattern=pattern,
                    run=run,
                    detail={"source": f"{name}:{effect.number}", **effect.detail},
                )
            )
    return rows


def settle(before: float | None = None, *, books: str = "", run: str | None = None) -> int:
    """Note that the books were read for tasks that have come to an end; returns for how many.

    Only a settled task may be called lost: before, its debit may simply not have been read yet. Either ``before``
    (seconds since the epoch) and ``books``: up to 500 of their tasks without an effect that ended before then, the
    oldest first, for a caller that has read the books since; not while an execution of the same operation may still go on. Or
    ``run``: every task
    of that run, for a caller that has seen that all is quiet there.
    """
    if run is not None:
        quiet = _written(Tally).filter(IN_A_RUN, settled=0, run=run).exclude(books="")
    elif before is not None and books:
        moment = clock.moment(before)
        quiet = (
            _written(Tally)
            .filter(UNSETTLED, ~_still_running(moment), books=books, run="", last_at__lt=moment)
            .order_by("first_at")[:BATCH]
        )
    else:
        raise ValueError("settle() needs a moment and books, or a run.")
    known = list(quiet.values_list("task_id", flat=True))
    return sum(
        _append(lambda part=known[start : start + BATCH]: _settlements(part))  # type: ignore[misc]
        for start in range(0, len(known), BATCH)
    )


def _settlements(task_ids: Sequence[str]) -> list[EventData]:
    unsettled = _written(Tally).filter(task_id__in=task_ids, settled=0)
    return [
        EventData(
            at=time.time(),
            kind=SETTLED,
            source=_settlement(task_id),
            task_id=task_id,
            operation=operation,
            pattern=pattern,
            run=in_run,
        )
        for task_id, operation, pattern, in_run in unsettled.values_list("task_id", "operation", "pattern", "run")
    ]


def _still_running(moment: datetime) -> Exists:
    """Whether an execution of the same operation has begun that nobody has seen end, if it may be alive: one that is older than
    TASKS_DEMO_OUTBOX_UNFINISHED_SECONDS is not.

    What was killed looks the same, which is why this has an end.
    """
    over = Q(kind__in=["retried", "replaced", "lease_lost"]) | Q(kind="deferred", detail__requeued=True)
    given_up = _written(Event).filter(over, task_id=OuterRef("task_id")).order_by()
    counted = given_up.values("task_id").annotate(count=Count("id")).values("count")
    seen = F("ended") - F("suppressed") - F("quarantined") + Coalesce(Subquery(counted), 0)
    oldest = moment - timedelta(seconds=settings.OUTBOX_UNFINISHED_SECONDS)
    return Exists(
        _written(Tally)
        .filter(operation=OuterRef("operation"), last_at__gt=oldest, executions__gt=seen)
        .exclude(operation="")
    )


def _settlement(task_id: str) -> str:
    """The source of a task's settlement, in 120 characters: what is too long is hashed, never cut, which two could share."""
    source = f"settled:{task_id}"
    # Another prefix: whoever publishes chooses task IDs, and may choose one that reads like another's hash.
    return source if len(source) <= 120 else f"settled#{sha256(task_id.encode()).hexdigest()}"
