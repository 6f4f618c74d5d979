"""The ledger's own connection: appends batches of events and keeps the tallies, in one transaction.

The connection is not one of Django's ``connections``: a task's rollback cannot erase evidence, and Celery's
Django fixup, which closes those around every task, leaves it open. After a fork the child starts afresh and
never touches what it inherited. SIGKILL loses no committed batch; nothing is claimed about power loss.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import cache
from typing import Any

from django.db import Error, connections, router
from django.db.backends.base.base import BaseDatabaseWrapper

from tasks_demo.core import clock, databases
from tasks_demo.core.conf import in_tests, settings
from tasks_demo.core.exceptions import LedgerUnavailable
from tasks_demo.core.wording import counted
from tasks_demo.ledger.events import EFFECT, KNOWS_ITS_TASK, EventData
from tasks_demo.ledger.models import Event
from tasks_demo.ledger.sql import statement
from tasks_demo.ledger.tallies import COUNTS, TallyDelta, fold

#: Both databases bound the parameters of one statement (32,766 on SQLite, 65,535 on PostgreSQL).
ROWS_A_STATEMENT = 100
#: How long SQLite's log may grow before whoever commits next copies it into the database: 16 MB of pages of 4 kB, instead
#: of 4 MB. The same pages are written again and again; the longer it waits, the fewer of them it copies.
CHECKPOINT_PAGES = 4000
#: Pause before SQLite's write lock is asked for again.
BUSY_SECONDS = 0.0005
#: PostgreSQL's bounds: on a wait for a lock, where the project sets none, as long as project.settings has SQLite wait; and on a
#: transaction whose process has been stopped in the middle, for which all others may have to wait.
LOCK_SECONDS, IDLE_SECONDS = 20, 10
#: Bounds on what the network may do, seconds: reach the server; have it acknowledge what was sent. Where the project sets none.
CONNECT_SECONDS, UNHEARD_SECONDS = 3, 10
#: So long a fork waits for PostgreSQL's answer to a commit that is under way.
FORK_SECONDS = 1.0
#: The advisory lock of PostgreSQL that everybody who writes tallies shares, and whoever counts effects has alone.
TALLIES = 0x7461736B735F7461


def off_in_tests() -> bool:
    """Whether this is a test run whose project has not asked for the ledger: the rows of a connection of our own would stay from
    test to test, it would keep PostgreSQL from dropping the test database, and it would not see one in SQLite's memory."""
    return in_tests() and not settings.LEDGER_IN_TESTS


def alias() -> str:
    """The database of the ledger: where Django's routers write its events."""
    return router.db_for_write(Event)


def unsupported() -> str:
    """Why the ledger cannot be in its database, as a sentence; empty: it can."""
    why = databases.unsupported(alias())
    if not why:
        return ""
    return (
        f"The ledger cannot be kept: {why}. Nothing is recorded, and jobs go on without it. Send the app tasks_demo to another "
        "database with a router, or set TASKS_DEMO_LEDGER = False."
    )


class Store:
    """One per process. Safe to call from several threads."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._connection: BaseDatabaseWrapper | None = None
        self._in_doubt = False
        self._patience = 0.0
        #: Somebody wants to fork: SQLite's lock is not waited for any longer.
        self._forking = False
        self._held = False
        self._bounded = True
        self._inherited: list[BaseDatabaseWrapper] = []

    def append(self, rows: Sequence[EventData], patience: float | None = None) -> None:
        """Commit the rows and their counts, all or none.

        ``patience``: seconds to wait for another thread's commit, and for SQLite's write lock; None: as the database is set up.
        Raises LedgerUnavailable if that failed *or is in doubt*; the same rows may then be appended again, with
        others after them, and are counted once. Does nothing in a test run, unless TASKS_DEMO_LEDGER_IN_TESTS.
        """
        if not rows or off_in_tests():
            return
        if not self.lock.acquire(timeout=-1 if patience is None else patience):
            raise LedgerUnavailable(f"The ledger's database has not answered for {patience:g} s.")
        try:
            try:
                self._append(rows, patience)
                self._in_doubt = False
            except Exception as error:  # whatever the driver or a router raises: it must not fail a job
                self._in_doubt = True
                with suppress(Exception):
                    self.close()
                raise LedgerUnavailable(
                    f"The ledger's database did not take {counted(len(rows), 'event')}: {str(error).partition(chr(10))[0]}. "
                    "Is it running, writable and migrated (`manage.py migrate`)?"
                ) from error
        finally:
            self.lock.release()

    def can_hang(self) -> bool:
        """Whether an answer may never come: a server's. SQLite's lock is waited for as long as one likes."""
        return connections[alias()].vendor != "sqlite"

    def close(self, patience: float | None = None) -> None:
        """Close the connection; the next append opens another. Leaves it open if a commit takes longer than ``patience``."""
        if self.lock.acquire(timeout=-1 if patience is None else patience):
            try:
                connection, self._connection = self._connection, None
                if connection is not None:
                    connection.close()
            finally:
                self.lock.release()

    def before_fork(self) -> None:
        """Let no other thread be inside the database library, whose locked mutexes the child would have; and close SQLite.

        SQLite's own book of locks would be in the child too: it would take the parent's for its own, and either could delete the
        log (-wal) with what the other commits to it later (https://www.sqlite.org/howtocorrupt.html, section 2.6).
        PostgreSQL may never answer: then the other thread waits for its socket, and holds nothing that the child needs.
        """
        self._forking = True
        seconds = FORK_SECONDS if self._connection is not None and self._connection.vendor != "sqlite" else -1
        self._held = self.lock.acquire(timeout=seconds)
        self._forking = False
        if self._held and self._connection is not None and self._connection.vendor == "sqlite":
            with suppress(Error):
                self.close()

    def after_fork_in_parent(self) -> None:
        if self._held:
            self.lock.release()

    def after_fork(self) -> None:
        """In a forked child: forget the parent's connection without closing it, and start afresh."""
        if self._connection is not None:
            # Never closed, never collected: closing would speak to the server for the parent.
            self._inherited.append(self._connection)
            _let_go_of_the_socket(self._connection)
        self._connection = None
        self.lock = threading.RLock()

    def _open(self) -> BaseDatabaseWrapper:
        if self._connection is None:
            self._connection = connections.create_connection(alias())
            self._connection.settings_dict = _bounded(self._connection)
            self._connection.inc_thread_sharing()  # guarded by our own lock
        if self._connection.connection is None:
            self._connection.ensure_connection()
            if self._connection.vendor == "sqlite":
                with self._connection.cursor() as cursor:
                    cursor.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
                    cursor.execute("PRAGMA busy_timeout")
                    self._patience = cursor.fetchone()[0] / 1000
                    cursor.execute("PRAGMA busy_timeout = 0")  # see _begin
                    # Debian's library overwrites what is deleted, which here is index entries of rows that stay.
                    cursor.execute("PRAGMA secure_delete = 0")
            else:
                with self._connection.cursor() as cursor:
                    cursor.execute("SHOW lock_timeout")
                    self._bounded = cursor.fetchone()[0] != "0"
        return self._connection

    def _append(self, rows: Sequence[EventData], patience: float | None) -> None:
        if why := unsupported():
            raise LedgerUnavailable(why)
        connection = self._open()
        deadline = time.monotonic() + (self._patience if patience is None else min(patience, self._patience))
        batch = _Batch(rows, connection)
        # The driver's own cursor: Django's wrappers cost more than the database. Errors become Django's all the same.
        with connection.wrap_database_errors, closing(connection.connection.cursor()) as cursor:
            if connection.vendor == "sqlite":
                self._sqlite(cursor, "BEGIN IMMEDIATE", deadline)
            else:
                self._begin_postgresql(cursor, alone=bool(batch.operations))
            try:
                new = _new(cursor, rows, connection.vendor, in_doubt=self._in_doubt)
                if len(new) < len(rows):
                    batch = _Batch(new, connection)
                batch.write(cursor)
                if connection.vendor == "sqlite":
                    self._sqlite(cursor, "COMMIT", deadline)
                else:
                    cursor.execute("COMMIT")
            except BaseException:
                # The failure that brought us here is the one to report; the caller closes the connection.
                with suppress(Error), connection.wrap_database_errors:
                    cursor.execute("ROLLBACK")
                raise

    def _begin_postgresql(self, cursor: Any, *, alone: bool) -> None:
        """Begin, and have no tally come into being while effects are counted: the counter would not see it, nor it the effects.

        One round trip; in one statement, a snapshot would be older than the lock. Not the table's own lock, which VACUUM takes
        too. Bounded, because whoever waits for a lock has others wait behind it.
        """
        bounds = f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS * 1000:.0f}ms'; "
        if not self._bounded:
            bounds += f"SET LOCAL lock_timeout = '{LOCK_SECONDS * 1000:.0f}ms'; "
        cursor.execute(f"BEGIN; {bounds}SELECT pg_advisory_xact_lock{'' if alone else '_shared'}({TALLIES})")

    def _sqlite(self, cursor: Any, statement: str, deadline: float) -> None:
        """Begin or commit, once the file is free.

        SQLite's write lock is taken at once: a transaction that reads first could not become a writer later. Without WAL a
        commit waits, too, until nobody reads. Whoever finds the file taken asks again after a moment, as SQLite does by itself,
        but not after 1, 2, 5, 10 … ms: our batches hold it for less than that, and pool processes would sleep while it is free.
        """
        while True:
            try:
                cursor.execute(statement)
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline or self._forking:
                    raise
            time.sleep(BUSY_SECONDS)  # SQLite tells nobody when it is free


def _bounded(connection: BaseDatabaseWrapper) -> dict[str, Any]:
    """Its settings with bounds on what a network may do; what the project has set stays. A pool would be shared with others."""
    known: dict[str, Any] = {**connection.settings_dict, "OPTIONS": {**connection.settings_dict["OPTIONS"]}}
    if connection.vendor == "postgresql":
        known["OPTIONS"].pop("pool", None)
        known["OPTIONS"].setdefault("connect_timeout", CONNECT_SECONDS)
        known["OPTIONS"].setdefault("tcp_user_timeout", UNHEARD_SECONDS * 1000)
    return known


def _let_go_of_the_socket(connection: BaseDatabaseWrapper) -> None:
    """While a child has it, too, PostgreSQL does not see that the parent was killed, and keeps its transaction and its locks."""
    if connection.connection is None:
        return
    with suppress(Exception), open(os.devnull, "r+b", buffering=0) as nothing:
        # Not closed: the number would be used again.
        os.dup2(nothing.fileno(), connection.connection.fileno(), inheritable=False)


class _Batch:
    """Rows as parameters of the statements, made before the transaction begins: SQLite has one writer at a time."""

    def __init__(self, rows: Sequence[EventData], connection: BaseDatabaseWrapper) -> None:
        self._vendor = connection.vendor
        moments = _Moments(connection)
        self._events = [_values(row, moments) for row in rows]
        # In one order everywhere, so that two batches cannot wait for each other.
        self._tallies = [_tally(counted, moments) for _, counted in sorted(fold(rows).items())]
        self._learnt = sorted(
            {
                (row.task_id, row.operation)
                for row in rows
                if row.kind in KNOWS_ITS_TASK and row.operation != row.task_id
            }
        )
        self.operations = sorted({row.operation for row in rows if row.kind == EFFECT})

    def write(self, cursor: Any) -> None:
        """Send everything in few statements: after each, another thread may keep this one, and the write lock, waiting."""
        for name, rows in (("append_event", self._events), ("keep_tally", self._tallies)):
            for start in range(0, len(rows), ROWS_A_STATEMENT):
                part = rows[start : start + ROWS_A_STATEMENT]
                cursor.execute(_sql(name, self._vendor, len(part)), [value for row in part for value in row])
        for task_id, operation in self._learnt:
            cursor.execute(_sql("learn_operation", self._vendor), [operation, operation, task_id])
        for operation in self.operations:
            cursor.execute(_sql("count_effects", self._vendor), [operation, operation])


def _new(cursor: Any, rows: Sequence[EventData], vendor: str, *, in_doubt: bool) -> Sequence[EventData]:
    """The rows that are not committed yet: of all, if the last answer was lost; else of effects, which several may record.

    Whoever writes effects is alone with its transaction, so nobody records the same one meanwhile.
    """
    asked = [row.source for row in rows if in_doubt or row.kind == EFFECT]
    if not asked:
        return rows
    places = ", ".join(["?" if vendor == "sqlite" else "%s"] * len(asked))
    cursor.execute(statement("already_there").replace("%s", places), asked)
    there = {source for (source,) in cursor.fetchall()}
    new = {row.source: row for row in reversed(rows) if row.source not in there}  # of two in one batch the first
    return list(reversed(new.values()))


#: An INSERT of one row: what comes before its values, the values, what follows.
_ONE_ROW = re.compile(r"(.*?\bVALUES\s*)(\(.*?\))(\s*(?:ON CONFLICT\b.*)?)", re.DOTALL)


@cache
def _sql(name: str, vendor: str, rows: int = 1) -> str:
    """The statement, for that many rows, with the placeholders of the database's driver."""
    text = statement(name)
    if rows > 1:
        found = _ONE_ROW.fullmatch(text)
        if found is None:
            raise AssertionError(f"{name}.sql is not an INSERT of one row.")
        before, values, after = found.groups()
        text = before + ", ".join([values] * rows) + after
    return text.replace("%s", "?") if vendor == "sqlite" else text


class _Moments(dict[float, Any]):
    """Seconds since the epoch as the database takes them; each is made once, since event and tally share it."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        super().__init__()
        self._connection = connection

    def __missing__(self, seconds: float) -> Any:
        moment = self[seconds] = clock.adapted(datetime.fromtimestamp(seconds, UTC), self._connection)
        return moment


def _values(row: EventData, moments: _Moments) -> list[Any]:
    return [
        moments[row.at],
        row.kind,
        row.task_id,
        row.operation,
        row.pattern,
        row.worker,
        row.pid,
        row.run,
        row.source,
        row.detail_as_json(),
    ]


def _tally(counted: TallyDelta, moments: _Moments) -> list[Any]:
    return [
        counted.task_id,
        counted.operation,
        counted.pattern,
        counted.run,
        counted.books,
        counted.task,
        *(counted.counts[column] for column in COUNTS),
        counted.state,
        counted.operation,
        moments[counted.first_at],
        moments[counted.last_at],
    ]


store = Store()
os.register_at_fork(
    before=store.before_fork,
    after_in_parent=store.after_fork_in_parent,
    after_in_child=store.after_fork,
)
