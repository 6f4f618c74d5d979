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
from tasks_demo.ledger.tallies import COUNTS, TallyDelta, fold

#: Rows per statement. A statement may have 32,766 parameters on SQLite and 65,535 on PostgreSQL.
ROWS_A_STATEMENT = 100


class Batch:
    """Events as statement parameters, computed before the transaction begins because SQLite has one writer at a time."""

    def __init__(self, events: Sequence[EventData], connection: BaseDatabaseWrapper) -> None:
        self._vendor = connection.vendor
        moments = _Moments(connection)
        self._events = [_values(event, moments) for event in events]
        # Sorted, so that two batches cannot deadlock.
        self._tallies = [_tally(delta, moments) for _, delta in sorted(fold(events).items())]
        self._learnt = sorted(
            {
                (event.task_id, event.operation)
                for event in events
                if event.kind in KNOWS_ITS_TASK and event.operation != event.task_id
            }
        )
        self.operations = sorted({event.operation for event in events if event.kind == EFFECT})

    def write(self, cursor: Any) -> None:
        """Execute the statements. They are few, because other threads may run between two while this one holds the write lock."""
        for name, rows in (("append_event", self._events), ("keep_tally", self._tallies)):
            for start in range(0, len(rows), ROWS_A_STATEMENT):
                part = rows[start : start + ROWS_A_STATEMENT]
                cursor.execute(_sql(name, self._vendor, len(part)), [value for row in part for value in row])
        for task_id, operation in self._learnt:
            cursor.execute(_sql("learn_operation", self._vendor), [operation, operation, task_id])
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
    cursor.execute(statement("already_there").replace("%s", places), asked)
    there = {source for (source,) in cursor.fetchall()}
    # Reversed: of two events with the same source in one batch, the first is kept.
    new = {event.source: event for event in reversed(events) if event.source not in there}
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


class _Moments(dict[float, Any]):
    """Maps seconds since the epoch to database parameters. Each is converted once and shared by event and tally."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        super().__init__()
        self._connection = connection
        self._is_text = connection.vendor == "sqlite"
        self._seconds: dict[int, str] = {}

    def __missing__(self, seconds: float) -> Any:
        if not self._is_text:
            moment = self[seconds] = clock.adapted(datetime.fromtimestamp(seconds, UTC), self._connection)
            return moment
        # SQLite stores text. A batch seldom spans more than a second, so convert the whole second once.
        whole, fraction = divmod(microseconds(seconds), 1_000_000)
        if whole not in self._seconds:
            self._seconds[whole] = str(clock.adapted(datetime.fromtimestamp(whole, UTC), self._connection))
        moment = self[seconds] = f"{self._seconds[whole]}.{fraction:06d}" if fraction else self._seconds[whole]
        return moment


def _values(event: EventData, moments: _Moments) -> list[Any]:
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


def _tally(delta: TallyDelta, moments: _Moments) -> list[Any]:
    return [
        delta.task_id,
        delta.operation,
        delta.pattern,
        delta.run,
        delta.books,
        delta.task,
        *(delta.counts[column] for column in COUNTS),
        delta.state,
        delta.operation,
        moments[delta.first_at],
        moments[delta.last_at],
    ]
