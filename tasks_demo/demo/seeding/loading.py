"""Writes invented rows to a ledger, and removes them: with COPY on PostgreSQL, with large transactions on SQLite."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from tasks_demo.core import clock
from tasks_demo.demo.seeding.rows import EVENT_COLUMNS, TALLY_COLUMNS, RowGenerator, Rows, prefix
from tasks_demo.ledger import database, rollups
from tasks_demo.ledger.models import Event, Tally

#: Task IDs per transaction when loading, and event IDs per transaction when removing.
TASKS_AT_ONCE, EVENTS_AT_ONCE = 20_000, 50_000
#: SQLite's page cache while loading, kB. It is large because most indexes are filled in random order.
_CACHE_KB = 500_000


def is_empty(alias: str) -> bool:
    """Return whether this ledger has neither a task ID nor an event."""
    return not Tally.objects.using(alias).exists() and not Event.objects.using(alias).exists()


def has_seed(alias: str, seed: int) -> bool:
    """Return whether this ledger has the first event of this seed."""
    return Event.objects.using(alias).filter(source=f"{prefix(seed)}0").exists()


def load(
    alias: str, *, tasks: int, events_per_task: int, seed: int, progress: Callable[[int], None] = lambda done: None
) -> None:
    """Invent and commit ``tasks`` task IDs, in parts, and update the rollups. ``progress``: called with the number committed.

    If it is interrupted, committed task IDs stay, and ``remove`` deletes them. Raises the database's errors.
    """
    connection = connections[alias]
    connection.ensure_connection()
    generator = RowGenerator(tasks, events_per_task, seed, time.time_ns() // 1000, connection)
    write = _copy if connection.vendor == "postgresql" else _insert
    done = 0
    with _large_cache(connection):
        for rows in generator.parts(TASKS_AT_ONCE):
            with _transaction(connection) as cursor:
                write(cursor, rows)
            done += len(rows.tallies)
            progress(done)
        analyse(alias)
    if alias == database.alias():
        while not rollups.fold(1.0):
            progress(done)


def remove(alias: str, seed: int, progress: Callable[[int], None] = lambda done: None) -> int:
    """Delete the task IDs and events of this seed. Returns the number of task IDs. ``progress`` gets the number so far."""
    connection = connections[alias]
    first = Event.objects.using(alias).order_by("id").values_list("id", flat=True).first() or 0
    last = Event.objects.using(alias).order_by("-id").values_list("id", flat=True).first() or 0
    done = 0
    with _large_cache(connection):
        # By ID, not by source, because an index in the database's collation cannot be used for a prefix.
        for start in range(first, last + 1, EVENTS_AT_ONCE):
            with _transaction(connection) as cursor:
                ours = f"id >= {start} AND id < {start + EVENTS_AT_ONCE} AND source LIKE '{prefix(seed)}%'"
                cursor.execute(
                    f"DELETE FROM tasks_demo_tally WHERE task_id IN (SELECT task_id FROM tasks_demo_event WHERE {ours})"  # noqa: S608  (numbers of our own)
                )
                done += cursor.rowcount
                cursor.execute(f"DELETE FROM tasks_demo_event WHERE {ours}")  # noqa: S608
            progress(done)
        analyse(alias)
    if alias == database.alias():
        rollups.refold(clock.from_epoch(time.time()))
    return done


def analyse(alias: str) -> None:
    """Update the statistics that the database's query planner uses."""
    with connections[alias].cursor() as cursor:
        for model in (Event, Tally):
            cursor.execute(f"ANALYZE {model._meta.db_table}")


def _insert(cursor: Any, rows: Rows) -> None:
    for table, columns, values in _tables(rows):
        places = ", ".join(["?"] * len(columns))
        cursor.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", values)  # noqa: S608  (names of our own)


def _copy(cursor: Any, rows: Rows) -> None:
    for table, columns, values in _tables(rows):
        with cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
            for row in values:
                copy.write_row(row)


def _tables(rows: Rows) -> Iterator[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
    yield Event._meta.db_table, EVENT_COLUMNS, rows.events
    yield Tally._meta.db_table, TALLY_COLUMNS, sorted(rows.tallies)


@contextmanager
def _transaction(connection: BaseDatabaseWrapper) -> Iterator[Any]:
    """Run one transaction with the driver's own cursor."""
    with connection.wrap_database_errors:
        cursor = connection.connection.cursor()
        cursor.execute("BEGIN IMMEDIATE" if connection.vendor == "sqlite" else "BEGIN")
        try:
            yield cursor
            cursor.execute("COMMIT")
        except BaseException:
            with suppress(Error):
                cursor.execute("ROLLBACK")
            raise
        finally:
            cursor.close()


@contextmanager
def _large_cache(connection: BaseDatabaseWrapper) -> Iterator[None]:
    if connection.vendor != "sqlite":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA cache_size")
        before = cursor.fetchone()[0]
        cursor.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        try:
            yield
        finally:
            cursor.execute(f"PRAGMA cache_size = {before}")
