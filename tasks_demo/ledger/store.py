"""The ledger's own connection: commits batches of events and updates the tallies, in one transaction each.

It is not one of Django's ``connections``: a task's rollback does not erase events, and Celery's Django fixup, which closes
those around every task, leaves it open. A forked child opens its own and never touches the inherited one. A committed batch
survives SIGKILL. Not guaranteed: that it survives a power cut, which depends on how the database is configured.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Any

from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from tasks_demo.core.exceptions import LedgerUnavailable
from tasks_demo.core.wording import counted
from tasks_demo.ledger.batch import Batch, not_stored
from tasks_demo.ledger.database import TALLIES_LOCK, alias, off_in_tests, unsupported
from tasks_demo.ledger.events import EventData

#: Size of SQLite's write-ahead log at which a commit copies it into the database: 16 MB of 4 kB pages instead of 4 MB.
#: Batches rewrite the same pages, so fewer of them are copied.
CHECKPOINT_PAGES = 4000
#: Seconds before SQLite's write lock is requested again.
BUSY_SECONDS = 0.0005
#: PostgreSQL's timeouts, seconds: waiting for a lock, where the project sets none; and a transaction whose process was
#: stopped (SIGSTOP) in the middle, because all others may be waiting for it.
LOCK_SECONDS, IDLE_SECONDS = 20, 10
#: Network timeouts of PostgreSQL, seconds, where the project sets none: connecting, and data sent but not acknowledged.
CONNECT_SECONDS, UNHEARD_SECONDS = 3, 10
#: Maximum time that a fork waits for a commit in progress on PostgreSQL, seconds.
FORK_SECONDS = 1.0


class Store:
    """One per process. Safe to call from several threads."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._connection: BaseDatabaseWrapper | None = None
        self._in_doubt = False
        self._patience = 0.0
        #: A thread wants to fork: stop waiting for SQLite's write lock.
        self._forking = False
        self._held = False
        self._bounded = True
        self._inherited: list[BaseDatabaseWrapper] = []

    def append(self, events: Sequence[EventData], patience: float | None = None) -> None:
        """Commit the events and their counts, all or none.

        ``patience``: maximum time to wait for another thread's commit and for SQLite's write lock, seconds; None: the database's
        own timeout. Raises LedgerUnavailable if the commit failed *or is in doubt*; append the same events again, more may follow
        them, and each is counted once. Does nothing in a test run, unless TASKS_DEMO_LEDGER_IN_TESTS is set.
        """
        if not events or off_in_tests():
            return
        if not self.lock.acquire(timeout=-1 if patience is None else patience):
            raise LedgerUnavailable(f"The ledger's database has not answered for {patience:g} s.")
        try:
            try:
                self._append(events, patience)
                self._in_doubt = False
            except Exception as error:  # drivers and routers raise anything, and none of it may fail a job
                self._in_doubt = True
                with suppress(Exception):
                    self.close()
                raise LedgerUnavailable(
                    f"The ledger's database did not take {counted(len(events), 'event')}: {str(error).partition(chr(10))[0]}. "
                    "Is it running, writable and migrated (`manage.py migrate`)?"
                ) from error
        finally:
            self.lock.release()

    def can_hang(self) -> bool:
        """Whether a commit may never return, as a server's may. Waiting for SQLite's lock is bounded by ``patience``."""
        return connections[alias()].vendor != "sqlite"

    def close(self, patience: float | None = None) -> None:
        """Close the connection; the next append opens another. Leaves it open if a commit in progress exceeds ``patience``."""
        if self.lock.acquire(timeout=-1 if patience is None else patience):
            try:
                connection, self._connection = self._connection, None
                if connection is not None:
                    connection.close()
            finally:
                self.lock.release()

    def before_fork(self) -> None:
        """Wait until no other thread is inside the database library, whose locked mutexes the child would inherit; close SQLite.

        The child would inherit SQLite's list of locks and take the parent's for its own. Either could then delete the
        write-ahead log with the other's later commits (https://www.sqlite.org/howtocorrupt.html, section 2.6).
        A commit on PostgreSQL may never return. Its thread then waits for the socket, and holds nothing that the child needs.
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
        """In a forked child: drop the parent's connection without closing it. The next append opens another."""
        if self._connection is not None:
            # Kept, so that it is never collected: closing it would end the parent's session.
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
                    # Debian's SQLite overwrites deleted content by default; here that is index entries of rows that stay.
                    cursor.execute("PRAGMA secure_delete = 0")
            else:
                with self._connection.cursor() as cursor:
                    cursor.execute("SHOW lock_timeout")
                    self._bounded = cursor.fetchone()[0] != "0"
        return self._connection

    def _append(self, events: Sequence[EventData], patience: float | None) -> None:
        if why := unsupported():
            raise LedgerUnavailable(why)
        connection = self._open()
        deadline = time.monotonic() + (self._patience if patience is None else min(patience, self._patience))
        batch = Batch(events, connection)
        # The driver's own cursor: Django's wrappers cost more than the database. Errors become Django's all the same.
        with connection.wrap_database_errors, closing(connection.connection.cursor()) as cursor:
            if connection.vendor == "sqlite":
                self._sqlite(cursor, "BEGIN IMMEDIATE", deadline)
            else:
                self._begin_postgresql(cursor, alone=bool(batch.operations))
            try:
                new = not_stored(cursor, events, connection.vendor, in_doubt=self._in_doubt)
                if len(new) < len(events):
                    batch = Batch(new, connection)
                batch.write(cursor)
                if connection.vendor == "sqlite":
                    self._sqlite(cursor, "COMMIT", deadline)
                else:
                    cursor.execute("COMMIT")
            except BaseException:
                # Report the original error; the caller closes the connection.
                with suppress(Error), connection.wrap_database_errors:
                    cursor.execute("ROLLBACK")
                raise

    def _begin_postgresql(self, cursor: Any, *, alone: bool) -> None:
        """Begin, with the lock on the tallies. While effects are counted, no tally may be created: neither would see the other.

        One round trip. Not one statement, whose snapshot would be older than the lock. Not a table lock, which VACUUM takes too.
        The wait is bounded, because others queue behind it.
        """
        bounds = f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS * 1000:.0f}ms'; "
        if not self._bounded:
            bounds += f"SET LOCAL lock_timeout = '{LOCK_SECONDS * 1000:.0f}ms'; "
        cursor.execute(f"BEGIN; {bounds}SELECT pg_advisory_xact_lock{'' if alone else '_shared'}({TALLIES_LOCK})")

    def _sqlite(self, cursor: Any, statement: str, deadline: float) -> None:
        """Begin or commit as soon as the file is free.

        BEGIN IMMEDIATE takes the write lock: a transaction that reads first may fail to become a writer later. Without WAL a
        commit waits for readers, too. This retries every BUSY_SECONDS; SQLite's own busy handler waits 1, 2, 5, 10 … ms, longer
        than a batch holds the lock, and pool processes would sleep while the file is free.
        """
        while True:
            try:
                cursor.execute(statement)
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline or self._forking:
                    raise
            time.sleep(BUSY_SECONDS)  # SQLite does not notify waiters


def _bounded(connection: BaseDatabaseWrapper) -> dict[str, Any]:
    """Its settings with network timeouts, where the project sets none, and without a pool, which others would share."""
    known: dict[str, Any] = {**connection.settings_dict, "OPTIONS": {**connection.settings_dict["OPTIONS"]}}
    if connection.vendor == "postgresql":
        known["OPTIONS"].pop("pool", None)
        known["OPTIONS"].setdefault("connect_timeout", CONNECT_SECONDS)
        known["OPTIONS"].setdefault("tcp_user_timeout", UNHEARD_SECONDS * 1000)
    return known


def _let_go_of_the_socket(connection: BaseDatabaseWrapper) -> None:
    """Replace the inherited socket. While a child has it open, PostgreSQL does not notice that the parent was killed, and keeps
    the parent's transaction and locks."""
    if connection.connection is None:
        return
    with suppress(Exception), open(os.devnull, "r+b", buffering=0) as nothing:
        # Not closed: its number would be reused.
        os.dup2(nothing.fileno(), connection.connection.fileno(), inheritable=False)


store = Store()
os.register_at_fork(
    before=store.before_fork,
    after_in_parent=store.after_fork_in_parent,
    after_in_child=store.after_fork,
)


def append_missing(missing: Callable[[], Sequence[EventData]]) -> int:
    """Append the missing events; returns their number. Another reader may append some of them at the same time."""
    events = missing()
    try:
        store.append(events)
    except LedgerUnavailable:
        events = missing()
        store.append(events)
    return len(events)
