"""Reads the registered books and appends their new entries to the ledger as effects.

Reading starts at a cursor stored under the books' name and identity, so the cost depends on the number of new entries. If books
are read twice, or by two processes at once, nothing counts twice: an event's source is made of the books' name, their identity
and the number of the entry.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connections

from tasks_demo.core import clock
from tasks_demo.core.conf import settings
from tasks_demo.core.wording import first_line
from tasks_demo.ledger import books as registry
from tasks_demo.ledger.books import OVERLAP, Books, Effect
from tasks_demo.ledger.database import on_primary
from tasks_demo.ledger.events import EFFECT, EventData
from tasks_demo.ledger.models import BookCursor, BooksRead, Event, Tally
from tasks_demo.ledger.pruning import NEWEST_KEPT
from tasks_demo.ledger.settling import settle
from tasks_demo.ledger.store import append_missing

#: Events per transaction, so that other writers get their turn.
BATCH = 500
#: A task is settled only if it ended at least this many seconds before the reading, because clocks differ.
MARGIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class BooksState:
    """When books were last read to their end (``as_of``; None: never); why (``trouble``) and since when (``since``) they cannot
    be read."""

    name: str
    as_of: datetime | None = None
    trouble: str = ""
    since: datetime | None = None


def read_books() -> list[BooksState]:
    """Read all registered books, and settle the tasks of the books that were read to their end.

    If books fail, their BooksState has the error. Each set of books is read in its own thread. A thread that yields no entry for
    TASKS_DEMO_BOOKS_TIMEOUT_SECONDS is abandoned, and the other books are still read. Raises InvalidSetting, LedgerUnavailable,
    DatabaseError.
    """
    for name in sorted(registry.names()):
        began = time.time()
        trouble = _read_in_time(name)
        if not trouble:
            settle(before=began - MARGIN_SECONDS, books=name)
        _store_state(name, began, trouble)
    return states()


def states() -> list[BooksState]:
    """Return the BooksState of every registered book. Writes nothing."""
    known = {row.name: row for row in on_primary(BooksRead).filter(name__in=registry.names())}
    return [
        BooksState(name, row.read_at, row.trouble, row.failing_since) if (row := known.get(name)) else BooksState(name)
        for name in sorted(registry.names())
    ]


def _store_state(name: str, began: float, trouble: str) -> None:
    moment = clock.from_epoch(began)
    if trouble:
        row, _ = BooksRead.objects.get_or_create(name=name)
        row.trouble, row.failing_since = trouble, row.failing_since or moment
        row.save()
    else:
        BooksRead.objects.update_or_create(
            name=name, defaults={"read_at": moment, "trouble": "", "failing_since": None}
        )


#: Abandoned threads that are still waiting, by book. No second thread is started for the same book.
_hanging: dict[str, _Reading] = {}


class _Reading(threading.Thread):
    """Copies one book. Records the time of its last entry (``ticked``) and its error (``trouble``)."""

    def __init__(self, name: str) -> None:
        super().__init__(name=f"books {name}", daemon=True)
        self.book = name
        self.trouble = ""
        self.ticked = time.monotonic()

    def run(self) -> None:
        try:
            copy(self.book, registry.registered(self.book), self._tick)
        except Exception as error:  # noqa: BLE001  (books are code of the project)
            self.trouble = f"{type(error).__name__}: {first_line(error)}"[:500]
        finally:
            connections.close_all()

    def _tick(self) -> None:
        self.ticked = time.monotonic()


def _read_in_time(name: str) -> str:
    """Read this book. Returns why it failed, or an empty string."""
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
    """Append the entries that the ledger does not have yet. Returns their number. Raises what the books raise."""
    prefix = f"{name}:{books.identity()[:60]}:"
    snapshot = books.snapshot()  # taken before the first entry is read
    cursor = on_primary(BookCursor).filter(source=prefix).first() or _new_cursor(prefix)
    after = books.resume(cursor.number, cursor.snapshot)
    copied, last = 0, cursor.number
    for batch in _batches(books.effects(after), tick):
        copied += append_missing(lambda batch=batch: _missing(name, prefix, batch))  # type: ignore[misc]
        if batch[-1].number > last:
            last = batch[-1].number
            _move_cursor(prefix, last, snapshot)
    if snapshot != cursor.snapshot:
        _move_cursor(prefix, last, snapshot)
    return copied


def _new_cursor(prefix: str) -> BookCursor:
    """Create a cursor for books without one: at 0 for new books, at the newest entry in the ledger if the row was lost."""
    events = on_primary(Event).filter(kind=EFFECT, source__startswith=prefix).order_by("-id")
    latest = [source.removeprefix(prefix) for source in events.values_list("source", flat=True)[:NEWEST_KEPT]]
    number = max((int(text) for text in latest if text.isdecimal()), default=0)
    pruned = max(0, number - OVERLAP)
    return BookCursor.objects.get_or_create(source=prefix, defaults={"number": number, "pruned": pruned})[0]


def _move_cursor(prefix: str, number: int, snapshot: str) -> None:
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


def _missing(name: str, prefix: str, batch: Sequence[Effect]) -> list[EventData]:
    """Return, as events, the entries that the ledger does not have and has not pruned."""
    now = time.time()
    sources = [f"{prefix}{effect.number}" for effect in batch]
    there = set(on_primary(Event).filter(source__in=sources).values_list("source", flat=True))
    # Read after the events: `prune` updates it in the transaction that deletes them.
    pruned = on_primary(BookCursor).filter(source=prefix).values_list("pruned", flat=True).first() or 0
    operations = {effect.operation for effect in batch}
    homes = {
        operation: (pattern, run)
        for operation, pattern, run in on_primary(Tally)
        .filter(operation__in=operations)
        .order_by("first_at")
        .values_list("operation", "pattern", "run")
    }
    events = []
    for source, effect in zip(sources, batch, strict=True):
        if source not in there and effect.number > pruned:
            pattern, run = homes.get(effect.operation, ("", ""))
            events.append(
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
    return events
