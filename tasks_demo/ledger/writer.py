"""Keeps events in memory and commits them in batches from a background thread.

Does **not** guarantee that events survive SIGKILL before they are committed. A process that exits while the database is
unavailable logs the number of events that it loses.

A batch is committed BATCH_SECONDS after its first event, or earlier if a caller waits for the commit. After a failed commit no
caller waits: up to MOST_KEPT events are kept, and the thread retries with pauses that grow to LONGEST_PAUSE seconds. When the
database answers again, the events are written with their original timestamps, and one ``gap`` event counts those that were late
or lost (see ``ledger.gap``).
"""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
import threading
import time
import uuid
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import LedgerUnavailable
from tasks_demo.core.wording import counted
from tasks_demo.ledger.events import GAP, EventData
from tasks_demo.ledger.gap import Gap
from tasks_demo.ledger.store import store

logger = logging.getLogger(__name__)

#: Maximum number of events kept in memory, about 20 MB. Beyond this the oldest are dropped and counted as lost.
MOST_KEPT = 20_000
#: Events per transaction, so that other writers get their turn when the database is available again.
MOST_AT_ONCE = 1000
#: Maximum time to wait for another thread's commit, seconds, unless the caller sets a shorter one.
MOST_PATIENCE = 30.0
#: Seconds that the thread waits for more events before it commits.
BATCH_SECONDS = 0.05
#: Maximum pause between two attempts while the database is unavailable, seconds.
LONGEST_PAUSE = 5.0


class EventWriter:
    """Notes and commits the events of one process. Numbers them, so that an event is stored once even if its batch is resent."""

    def __init__(self) -> None:
        self.run = ""
        self.wait_seconds = settings.LEDGER_WAIT_SECONDS
        #: For the lab: wait until the database's own timeout instead of ``wait_seconds``.
        self.patient = False
        self.start_afresh()

    def start_afresh(self) -> None:
        """Reset all state, in a forked child. The parent commits its own events."""
        self._token = uuid.uuid4().hex[:16]
        self._pid = os.getpid()
        self._numbers = itertools.count(1)
        #: Guards the events in memory; never held during a commit. Reentrant: a signal handler (Celery's cold shutdown) may note
        #: an event while the interrupted thread holds the lock.
        self._lock = threading.RLock()
        #: Held during a commit, so that batches keep their order. Acquired before the other lock.
        self._flushing = threading.RLock()
        self._waiting: deque[EventData] = deque()
        #: When the first of them was added, monotonic seconds.
        self._waiting_since = 0.0
        #: The events being committed.
        self._in_flight: list[EventData] = []
        #: Set while the database is unavailable; then no caller waits for a commit.
        self._gap: Gap | None = None
        #: Wakes the thread. Not an Event: a signal handler that interrupts its ``set`` would deadlock in ``set``.
        self._wake: SimpleQueue[None] = SimpleQueue()
        #: Locks that the thread releases after its next commit.
        self._commit_requests: SimpleQueue[Any] = SimpleQueue()
        self._thread: threading.Thread | None = None
        #: The connection whose open transaction postponed the last commit.
        self._blocked_by: BaseDatabaseWrapper | None = None

    def note(self, kind: str, *, at: float, source: str = "", **fields: Any) -> EventData:
        """Add one event to the next batch. Without a ``source``, the event gets the next number of this process."""
        with self._lock:
            if not self._waiting:
                self._waiting_since = time.monotonic()
            source = source or f"{self._token}:{next(self._numbers)}"
            event = EventData(at=at, kind=str(kind), source=source, pid=self._pid, run=self.run, **fields)
            self._waiting.append(event)
            if self._gap is not None:
                self._gap.add_late([event])
            if len(self._waiting) > MOST_KEPT:
                if self._gap is None:
                    self._gap = Gap()
                self._gap.add_lost(self._waiting.popleft())
        return event

    def flush(self, announced: EventData | None = None) -> bool:
        """Commit all events in memory. Raises LedgerUnavailable on failure.

        After a failure the events are kept, except ``announced``: the body whose start it announces will not run. Returns False
        if the commit was postponed because an open transaction of this thread holds the SQLite file. The background thread
        retries kept and postponed events.
        """
        done = False
        try:
            done = self._flush(announced)
        finally:
            if not done:
                self.commit_soon()
        return done

    def try_flush(self, patience: float | None = None) -> bool:
        """Commit all events in memory. On failure logs the error and keeps them. Returns whether they were committed."""
        try:
            done = self._flush(patience=patience)
        except LedgerUnavailable as error:
            self._is_unavailable(error)
            done = False
        if not done:
            self.commit_soon()
        return done

    def close(self) -> None:
        """Commit all events in memory, then close the connection. Each step waits at most ``wait_seconds``."""
        if self._unwritten() and not self.commit_in_time(even_if_unavailable=True):
            logger.error(
                "The ledger's database did not answer: %s of this process not written. Jobs are not affected.",
                counted(self._unwritten(), "event"),
            )
        store.close(None if self.patient else self.wait_seconds)

    def commit_in_time(self, *, even_if_unavailable: bool = False) -> bool:
        """Commit all events in memory, waiting at most ``wait_seconds``. Returns whether they were committed.

        After the timeout the thread keeps trying. Does not wait while the database is unavailable, unless
        ``even_if_unavailable``.
        """
        if self.patient:
            return self.try_flush()
        if self._gap is not None and not even_if_unavailable:
            self.commit_soon()
            return False
        if not store.can_hang():
            return self.try_flush(self.wait_seconds)
        # A server may never answer, so the thread commits and this call waits for the thread.
        done = threading.Lock()
        done.acquire()
        self._commit_requests.put(done)
        self.commit_soon()
        if not done.acquire(timeout=self.wait_seconds):
            self._is_unavailable(f"The ledger's database has not answered for {self.wait_seconds:g} s.")
        return self._gap is None

    def commit_soon(self) -> None:
        """Have the background thread commit. Does not wait."""
        self._wake.put(None)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._commit_loop, name="ledger", daemon=True)
            with suppress(RuntimeError):  # the interpreter is shutting down, and ``close`` commits
                self._thread.start()

    def _unwritten(self) -> int:
        return len(self._in_flight) + len(self._waiting)

    def _is_unavailable(self, why: object) -> None:
        with self._lock:
            if self._gap is None:
                self._gap = Gap()
                self._gap.add_late((*self._in_flight, *self._waiting))
            self._gap.log(why, self._unwritten())

    def _flush(self, announced: EventData | None = None, patience: float | None = None) -> bool:
        # Checked before acquiring the lock: the background thread may hold it while it waits for this thread's transaction.
        if self._shares_a_file_with_an_open_transaction():
            return False
        seconds = MOST_PATIENCE if patience is None else patience
        if not self._flushing.acquire(timeout=seconds):
            raise LedgerUnavailable(f"The ledger's database has not answered for {seconds:g} s.")
        try:
            while events := self._next_batch(announced):
                try:
                    store.append(events, patience)
                except BaseException:
                    with self._lock:
                        self._in_flight = []
                        self._waiting.extendleft(event for event in reversed(events) if event is not announced)
                    raise
                self._in_flight = []
                if events[-1].kind == GAP:
                    logger.warning(
                        "The ledger is available again. Events written late: %(late)d; lost: %(lost)d.",
                        events[-1].detail,
                    )
        finally:
            self._flushing.release()
        return True

    def _next_batch(self, announced: EventData | None) -> list[EventData]:
        with self._lock:
            if announced is not None and not any(event is announced for event in self._waiting):
                return []  # already committed, by this call or by the thread
            if not self._waiting and self._gap is not None:
                gap, self._gap = self._gap, None
                self.note(GAP, at=time.time(), detail=gap.detail())
            self._in_flight = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_AT_ONCE))]
            return self._in_flight

    def _commit_loop(self) -> None:
        seconds = BATCH_SECONDS
        while True:
            self._wake.get()
            requests = self._requested_within(seconds)
            if requests is None:
                continue
            if self._is_still_blocked():
                self._wake.put(None)
                continue
            while not self._commit_requests.empty():
                requests.append(self._commit_requests.get())
            done = False
            try:
                done = self.try_flush()
            except Exception:
                # The thread must survive: in an idle process nothing would start another commit.
                logger.exception("A commit of the ledger failed unexpectedly; it is retried. Jobs are not affected.")
                self.commit_soon()
            for request in requests:
                request.release()
            seconds = BATCH_SECONDS if done else min(2 * seconds, LONGEST_PAUSE)

    def _requested_within(self, seconds: float) -> list[Any] | None:
        """Wait until an event has waited for ``seconds``, or until a caller waits for the commit; returns that caller's lock.

        Returns None if nothing is left to commit: in a busy pool process the next start has committed it.
        """
        left = seconds
        while left > 0:
            with suppress(Empty):
                return [self._commit_requests.get(timeout=left)]
            while not self._wake.empty():
                self._wake.get()  # one commit serves all requests
            if self._gap is not None:
                break
            if not self._waiting:
                return None
            left = self._waiting_since + seconds - time.monotonic()
        return []

    def _shares_a_file_with_an_open_transaction(self) -> bool:
        # SQLite has one writer, so a commit would wait for this thread's own transaction. The events are committed after the
        # transaction ends, by commit or rollback.
        file = store.sqlite_file()
        if not file:
            return False
        for alias, known in connections.settings.items():
            # Several aliases may name the same file. The name is compared first: ``connections`` looks each alias up per thread.
            if known["NAME"] == file and _in_transaction(connection := connections[alias]):
                self._blocked_by = connection
                return True
        return False

    def _is_still_blocked(self) -> bool:
        # Only the last blocking transaction is known. For other threads' transactions the commit waits in the database and is
        # retried.
        connection = self._blocked_by
        if connection is not None and _in_transaction(connection):
            return True
        self._blocked_by = None
        return False


def _in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a transaction is open on this SQLite connection, by ``atomic()`` or by raw SQL."""
    if connection.vendor != "sqlite" or connection.connection is None:
        return False
    try:
        return bool(connection.connection.in_transaction)
    except (AttributeError, sqlite3.ProgrammingError):  # its thread has just closed it
        return False
