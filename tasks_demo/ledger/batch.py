"""Writes a batch of events in SQL: appends events, updates tallies, counts effects. The statements are in ``ledger/sql``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from tasks_demo.core import clock
from tasks_demo.ledger.events import EFFECT, KNOWS_ITS_TASK, EventData, microseconds
from tasks_demo.ledger.sql import statement
from tasks_demo.ledger.tallies import TallyDelta, sum_events

#: Rows per statement. A statement may have 32,766 parameters on SQLite and 65,535 on PostgreSQL.
ROWS_A_STATEMENT = 100


class Batch:
    """Events as statement parameters, computed before the transaction begins because SQLite has one writer at a time."""

    def __init__(self, events: Sequence[EventData], moments: Moments) -> None:
        self._vendor = moments.connection.vendor
        moments.clear()
        self._events = [_values(event, moments) for event in events]
        # Sorted, so that two batches cannot deadlock.
        self._tallies = [_tally(delta, moments) for _, delta in sorted(sum_events(events).items())]
        self._known_to_worker = sorted(
            {
                (event.task_id, event.operation, event.pattern, event.books)
                for event in events
                if event.kind in KNOWS_ITS_TASK and (event.pattern or event.books or event.operation != event.task_id)
            }
        )
        self.operations = sorted({event.operation for event in events if event.kind == EFFECT})

    def write(self, cursor: Any) -> None:
        """Execute the statements. They are few: while this thread holds the write lock, others may run between two statements."""
        for name, rows in (("append_event", self._events), ("update_tally", self._tallies)):
            for start in range(0, len(rows), ROWS_A_STATEMENT):
                part = rows[start : start + ROWS_A_STATEMENT]
                cursor.execute(_sql(name, self._vendor, len(part)), [value for row in part for value in row])
        for task_id, operation, pattern, books in self._known_to_worker:
            known = [operation, pattern, books]
            cursor.execute(_sql("correct_task", self._vendor), [*known, operation, task_id, *known])
        for operation in self.operations:
            cursor.execute(_sql("count_effects", self._vendor), [operation, operation])


def not_stored(cursor: Any, events: Sequence[EventData], vendor: str, *, in_doubt: bool) -> Sequence[EventData]:
    """Return the events whose source is not stored yet. Looks up all if the last commit is ``in_doubt``, else effects only.

    Several readers may append the same effect, but never concurrently: a batch with effects holds the exclusive lock.
    """
    asked = [event.source for event in events if in_doubt or event.kind == EFFECT]
    if not asked:
        return events
    places = ", ".join(["?" if vendor == "sqlite" else "%s"] * len(asked))
    cursor.execute(statement("stored_sources").replace("%s", places), asked)
    stored = {source for (source,) in cursor.fetchall()}
    # Reversed: of two events with the same source in one batch, the first is kept.
    new = {event.source: event for event in reversed(events) if event.source not in stored}
    return list(reversed(new.values()))


#: Splits a one-row INSERT into the text before the values, the values, and the text after them.
_ONE_ROW = re.compile(r"(.*?\bVALUES\s*)(\(.*?\))(\s*(?:ON CONFLICT\b.*)?)", re.DOTALL)


@cache
def _sql(name: str, vendor: str, rows: int = 1) -> str:
    """Return the statement for this number of rows, with the placeholders of the database's driver."""
    text = statement(name)
    if rows > 1:
        found = _ONE_ROW.fullmatch(text)
        if found is None:
            raise AssertionError(f"{name}.sql is not an INSERT of one row.")
        before, values, after = found.groups()
        text = before + ", ".join([values] * rows) + after
    return text.replace("%s", "?") if vendor == "sqlite" else text


class Moments(dict[float, Any]):
    """Maps seconds since the epoch to parameters for one connection. Each is converted once and shared by event and tally."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        super().__init__()
        self.connection = connection
        self._is_text = connection.vendor == "sqlite"
        #: The whole second converted last, and its text.
        self._second: tuple[int | None, str] = (None, "")

    def __missing__(self, seconds: float) -> Any:
        if not self._is_text:
            moment = self[seconds] = clock.for_driver(datetime.fromtimestamp(seconds, UTC), self.connection)
            return moment
        # SQLite stores text. Most batches are of the same second as the one before, so convert the whole second once.
        whole, fraction = divmod(microseconds(seconds), 1_000_000)
        if whole != self._second[0]:
            self._second = whole, str(clock.for_driver(datetime.fromtimestamp(whole, UTC), self.connection))
        text = self._second[1]
        moment = self[seconds] = f"{text}.{fraction:06d}" if fraction else text
        return moment


def _values(event: EventData, moments: Moments) -> list[Any]:
    return [
        moments[event.at],
        event.kind,
        event.task_id,
        event.operation,
        event.pattern,
        event.worker,
        event.pid,
        event.run,
        event.source,
        event.detail_as_json(),
    ]


def _tally(delta: TallyDelta, moments: Moments) -> list[Any]:
    return [
        delta.task_id,
        delta.operation,
        delta.pattern,
        delta.run,
        delta.books,
        delta.task,
        *delta.numbers,
        delta.state,
        delta.operation,
        moments[delta.first_at],
        moments[delta.last_at],
    ]
