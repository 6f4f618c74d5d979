"""Commits batches of events and their tallies, one transaction per batch, on the ledger's own connection.

A committed batch survives SIGKILL. Does **not** guarantee that it survives a power failure: that depends on the database's
configuration.

The connection is not one of Django's ``connections``. So a task's rollback does not erase events, and Celery's Django fixup,
which closes Django's connections around every task, leaves it open. A forked child opens its own and never uses the inherited
one.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from tasks_demo.core.exceptions import LedgerUnavailable
from tasks_demo.core.wording import counted, first_line
from tasks_demo.ledger.batch import Batch, Moments, not_stored
from tasks_demo.ledger.database import TALLIES_LOCK, alias, off_in_tests, unsupported
from tasks_demo.ledger.events import EventData

#: Size, in pages, of SQLite's write-ahead log at which a commit checkpoints it: 16 MB of 4 kB pages instead of 4 MB.
#: Batches rewrite the same pages, so rarer checkpoints copy fewer of them.
CHECKPOINT_PAGES = 4000
#: Seconds between two requests for SQLite's write lock.
BUSY_SECONDS = 0.0005
#: PostgreSQL timeouts, seconds: for a lock, if the project sets none; and for an idle transaction whose process was stopped
#: (SIGSTOP), because all others may be waiting for it.
LOCK_SECONDS, IDLE_SECONDS = 20, 10
#: PostgreSQL network timeouts, seconds, if the project sets none: for connecting, and for data sent but not acknowledged.
CONNECT_SECONDS, UNHEARD_SECONDS = 3, 10
#: Maximum time that a fork waits for a PostgreSQL commit in progress, seconds.
FORK_SECONDS = 1.0


class Store:
    """The store of one process. Thread-safe."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._connection: BaseDatabaseWrapper | None = None
        self._moments: Moments | None = None
        self._in_doubt = False
        self._patience = 0.0
        #: Set while a thread wants to fork: stop waiting for SQLite's write lock.
        self._forking = False
        self._held = False
        self._bounded = True
        self._inherited: list[BaseDatabaseWrapper] = []

    def append(self, events: Sequence[EventData], patience: float | None = None) -> None:
        """Commit the events and their counts, all or none. Does nothing in a test run, unless TASKS_DEMO_LEDGER_IN_TESTS is set.

        ``patience``: maximum time to wait for another thread's commit and for SQLite's write lock, seconds; None: the database's
        own timeout. Raises LedgerUnavailable if the commit failed *or is in doubt*. Then append the same events again, alone or
        followed by others; each is counted once.
        """
        if not events or off_in_tests():
            return
        if not self.lock.acquire(timeout=-1 if patience is None else patience):
            raise LedgerUnavailable(f"The ledger's database has not answered for {patience:g} s.")
        try:
            try:
                self._append(events, patience)
                self._in_doubt = False
            except Exception as error:  # drivers and routers may raise anything, and no such error may fail a job
                self._in_doubt = True
                with suppress(Exception):
                    self.close()
                raise LedgerUnavailable(
                    f"The ledger's database did not store {counted(len(events), 'event')}: {first_line(error)}. "
                    "Is it running, writable and migrated (`manage.py migrate`)?"
                ) from error
        finally:
            self.lock.release()

    def can_hang(self) -> bool:
        """Return whether a commit may never return: true for a database server. On SQLite ``patience`` bounds the wait."""
        return self._home().vendor != "sqlite"

    def sqlite_file(self) -> Any:
        """Return the name of the SQLite database, or an empty string on a database server."""
        home = self._home()
        return home.settings_dict["NAME"] if home.vendor == "sqlite" else ""

    def close(self, patience: float | None = None) -> None:
        """Close the connection; the next append opens a new one. Leaves it open if a commit in progress outlasts ``patience``
        (seconds).
        """
        if self.lock.acquire(timeout=-1 if patience is None else patience):
            try:
                connection, self._connection = self._connection, None
                if connection is not None:
                    _outside_event_loops(connection.close)
            finally:
                self.lock.release()

    def before_fork(self) -> None:
        """Wait until no other thread is inside the database library, and close SQLite. Waits at most FORK_SECONDS on PostgreSQL.

        A child would inherit the library's locked mutexes. It would also inherit SQLite's list of locks and treat the parent's
        locks as its own; either process could then delete the write-ahead log with the other's later commits
        (https://www.sqlite.org/howtocorrupt.html, section 2.6). A PostgreSQL commit may never return, but its thread then waits
        for the socket and holds nothing that the child needs.
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
        """Drop the parent's connection, in a forked child, without closing it. The next append opens a new one."""
        if self._connection is not None:
            # Keep a reference: garbage collection would close it and end the parent's session.
            self._inherited.append(self._connection)
            _detach_socket(self._connection)
        self._connection = None
        self.lock = threading.RLock()

    def _home(self) -> BaseDatabaseWrapper:
        return self._connection or connections[alias()]

    def _open(self) -> BaseDatabaseWrapper:
        if self._connection is None:
            if why := unsupported():
                raise LedgerUnavailable(why)
            self._connection = connections.create_connection(alias())
            self._connection.settings_dict = _bounded(self._connection)
            self._connection.inc_thread_sharing()  # guarded by our own lock
        if self._connection.connection is None:
            _outside_event_loops(self._connect, self._connection)
        return self._connection

    def _connect(self, connection: BaseDatabaseWrapper) -> None:
        with connection.cursor() as cursor:
            if connection.vendor == "sqlite":
                cursor.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
                cursor.execute("PRAGMA busy_timeout")
                self._patience = cursor.fetchone()[0] / 1000
                cursor.execute("PRAGMA busy_timeout = 0")  # see _sqlite
                # Debian's SQLite overwrites deleted content by default; here that would be index entries of kept rows.
                cursor.execute("PRAGMA secure_delete = 0")
            else:
                cursor.execute("SHOW lock_timeout")
                self._bounded = cursor.fetchone()[0] != "0"

    def _append(self, events: Sequence[EventData], patience: float | None) -> None:
        connection = self._open()
        if self._moments is None or self._moments.connection is not connection:
            self._moments = Moments(connection)
        deadline = time.monotonic() + (self._patience if patience is None else min(patience, self._patience))
        batch = Batch(events, self._moments)
        # Use the driver's cursor: Django's wrappers cost more than the database. Errors are still converted to Django's.
        with connection.wrap_database_errors, closing(connection.connection.cursor()) as cursor:
            if connection.vendor == "sqlite":
                self._sqlite(cursor, "BEGIN IMMEDIATE", deadline)
            else:
                self._begin_postgresql(cursor, alone=bool(batch.operations))
            try:
                new = not_stored(cursor, events, connection.vendor, in_doubt=self._in_doubt)
                if len(new) < len(events):
                    batch = Batch(new, self._moments)
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
        """Begin a transaction that holds the lock on the tallies, in one round trip. ``alone``: take the exclusive lock.

        No tally may be created while effects are counted, because neither transaction would see the other's rows. BEGIN and the
        lock are separate statements, because a single statement's snapshot would be older than the lock. It is not a table lock,
        because VACUUM takes one, too. The wait is bounded, because other writers queue behind it.
        """
        bounds = f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS * 1000:.0f}ms'; "
        if not self._bounded:
            bounds += f"SET LOCAL lock_timeout = '{LOCK_SECONDS * 1000:.0f}ms'; "
        cursor.execute(f"BEGIN; {bounds}SELECT pg_advisory_xact_lock{'' if alone else '_shared'}({TALLIES_LOCK})")

    def _sqlite(self, cursor: Any, statement: str, deadline: float) -> None:
        """Execute BEGIN IMMEDIATE or COMMIT, retrying every BUSY_SECONDS until ``deadline`` (monotonic seconds).

        BEGIN IMMEDIATE takes the write lock: a transaction that reads first may fail to become a writer later. Without WAL a
        commit also waits for readers. SQLite's own busy handler is not used: it waits 1, 2, 5, 10 … ms, longer than a batch holds
        the lock, so pool processes would sleep while the file is free.
        """
        while True:
            try:
                cursor.execute(statement)
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline or self._forking:
                    raise
            time.sleep(BUSY_SECONDS)  # SQLite does not notify waiters


def _outside_event_loops(function: Callable[..., Any], *args: Any) -> None:
    """Call the function, in another thread if an event loop runs in this one, as in an async view that calls ``delay()``: Django
    neither opens nor closes a connection there."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        function(*args)
        return
    with ThreadPoolExecutor(1) as elsewhere:
        elsewhere.submit(function, *args).result()


def _bounded(connection: BaseDatabaseWrapper) -> dict[str, Any]:
    """Return the connection's settings without a pool, which others would share, and with network timeouts if none are set."""
    known: dict[str, Any] = {**connection.settings_dict, "OPTIONS": {**connection.settings_dict["OPTIONS"]}}
    if connection.vendor == "postgresql":
        known["OPTIONS"].pop("pool", None)
        known["OPTIONS"].setdefault("connect_timeout", CONNECT_SECONDS)
        known["OPTIONS"].setdefault("tcp_user_timeout", UNHEARD_SECONDS * 1000)
    return known


def _detach_socket(connection: BaseDatabaseWrapper) -> None:
    """Replace the inherited socket with /dev/null.

    While a child has the socket open, PostgreSQL does not notice that the parent was killed, and keeps the parent's transaction
    and locks.
    """
    if connection.connection is None:
        return
    with suppress(Exception), open(os.devnull, "r+b", buffering=0) as nothing:
        # Not closed: the descriptor number would be reused.
        os.dup2(nothing.fileno(), connection.connection.fileno(), inheritable=False)


store = Store()
os.register_at_fork(
    before=store.before_fork,
    after_in_parent=store.after_fork_in_parent,
    after_in_child=store.after_fork,
)


def append_missing(missing: Callable[[], Sequence[EventData]]) -> int:
    """Append the events that ``missing`` returns. Returns their number. Another reader may append some of them concurrently."""
    events = missing()
    try:
        store.append(events)
    except LedgerUnavailable:
        events = missing()
        store.append(events)
    return len(events)
