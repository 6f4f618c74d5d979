"""The observer that writes points down.

What must precede the body (``claimed``, ``started``) is committed before the body runs, or LedgerUnavailable is raised and
it does not run. Effects and the return follow with the next start, or a thread commits them BATCH_SECONDS later if there is
none; if that fails they are kept, because raising then would undo nothing, and the thread tries again by itself, after
pauses that grow to LONGEST_PAUSE seconds. The same thread commits all that a worker's main process sees (``received``,
``acked``, the failure of a job whose process died), so that the event loop does not wait for a commit. One wait is left: a
commit of main's that is under way is waited for before main forks a pool process, also one in place of a dead one.

A SIGKILL therefore loses at most what is not committed yet: the points of the delivery that it hits after its start, those
of the last BATCH_SECONDS before, up to and including a ``returned``, and whatever the database would not take by then. Counts
of executions are exact, unless the commit of a ``started`` is in doubt: if the server committed it and its answer was lost,
the body does not run and counts as an execution all the same. Counts of deliveries and ends are lower bounds, and a job whose
end was lost stays unresolved rather than being called ok. ``TASKS_DEMO_LEDGER_WRITE_THROUGH`` commits every point of the body
when it is reached, in a pool process; the lab uses it.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import threading
import uuid
from collections import deque
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from tasks_demo.conf import settings
from tasks_demo.exceptions import LedgerUnavailable
from tasks_demo.ledger.rows import Row
from tasks_demo.ledger.store import alias, off_in_tests, store
from tasks_demo.lifecycle import BY_MAIN, FOLLOWS, MUST_PRECEDE, Point, Reached

logger = logging.getLogger(__name__)

#: Kept while the database is away; beyond this the oldest go, and the log says so.
MOST_KEPT = 100_000
#: Seconds that the thread waits for company before it commits.
BATCH_SECONDS = 0.05
#: What its pause doubles up to, seconds, while the database is away.
LONGEST_PAUSE = 5.0


class Recorder:
    """One per process: numbers its events, so that each counts once however often it is sent."""

    def __init__(self) -> None:
        self.run = ""
        self.write_through = settings.LEDGER_WRITE_THROUGH
        #: The worker's main process commits at once, too. For the lab, which kills it.
        self.main_waits = False
        self._start_afresh()

    def _start_afresh(self) -> None:
        #: This is a worker's main process, whose event loop must not wait. Not inherited: the pool's processes may wait.
        self.is_main = False
        self._token = uuid.uuid4().hex[:16]
        self._pid = os.getpid()
        self._numbers = itertools.count(1)
        #: Guards what waits, for moments only: whoever notes a point never waits for a database. A handler of a signal may
        #: note one (Celery's cold shutdown does) while the thread that it interrupts holds this.
        self._lock = threading.RLock()
        #: Held while a batch is committed, so that batches keep their order. Taken before the other lock.
        self._flushing = threading.RLock()
        self._waiting: deque[Row] = deque()
        #: Something waits. Not an Event, which a handler that interrupts its ``set`` could not set, either.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        #: Whose open transaction put off the last commit.
        self._in_the_way: BaseDatabaseWrapper | None = None

    def after_fork(self) -> None:
        """In a forked child: the parent commits what the parent saw."""
        self._start_afresh()

    def __call__(self, event: Reached) -> None:
        """Observe one point (see the module's docstring for what raises)."""
        if off_in_tests():
            return
        subject = event.subject
        row = self.note(
            event.point,
            at=event.at,
            task_id=subject.task_id,
            operation=subject.operation,
            pattern=subject.pattern,
            worker=subject.worker,
            books=subject.books,
            task=subject.task,
            detail=event.detail,
        )
        point = event.point
        if point is Point.STARTED and not subject.pattern:
            self.try_flush()  # Celery runs a body without a pattern whatever an observer says: its start is kept
        elif point in MUST_PRECEDE:
            # The start says all that a claim says: one commit for both.
            if point is Point.STARTED or self.write_through:
                self.flush(announced=row)
        elif point in FOLLOWS:
            if self.write_through:
                self.try_flush()  # the effect is there, or about to be: nothing may fail for want of a record
        elif self._may_wait(point):
            self.try_flush()
        else:
            self._commit_soon()

    def _may_wait(self, point: Point) -> bool:
        if point is Point.RETURNED:
            return self.write_through
        return self.main_waits or not (self.is_main or point in BY_MAIN)

    def note(self, kind: str, *, at: float, **fields: Any) -> Row:
        """Put one event into the next batch."""
        with self._lock:
            source = f"{self._token}:{next(self._numbers)}"
            row = Row(at=at, kind=str(kind), source=source, pid=self._pid, run=self.run, **fields)
            self._waiting.append(row)
            if len(self._waiting) > MOST_KEPT:
                self._waiting.popleft()
                logger.error("The ledger is away for too long: its oldest unwritten event was dropped.")
        return row

    def flush(self, announced: Row | None = None) -> bool:
        """Commit what waits. Raises LedgerUnavailable and keeps it all, but for ``announced``: that will not happen.

        False: put off, an open transaction of this thread has the file. What was kept or put off the thread tries again.
        """
        done = False
        try:
            done = self._flush(announced)
        finally:
            if not done:
                self._commit_soon()
        return done

    def try_flush(self) -> bool:
        """Commit what waits; on failure log it and keep it for the next time. Whether it was committed."""
        try:
            return self.flush()
        except LedgerUnavailable as error:
            logger.error("%s %d event(s) kept for the next attempt.", error, len(self._waiting))
            return False

    def close(self) -> None:
        """Commit what waits and close the connection."""
        try:
            self._flush()
        except LedgerUnavailable as error:
            logger.error("%s %d event(s) are lost if this process ends now.", error, len(self._waiting))
        store.close()

    def _flush(self, announced: Row | None = None) -> bool:
        # Asked first: the thread may hold the lock while it waits for the very transaction that we are in.
        if self._shares_a_file_with_an_open_transaction():
            return False
        with self._flushing:
            with self._lock:
                if announced is not None and announced not in self._waiting:
                    return True  # the thread was quicker
                rows, self._waiting = self._waiting, deque()
            try:
                store.append(list(rows))
            except BaseException:
                with self._lock:
                    self._waiting.extendleft(row for row in reversed(rows) if row is not announced)
                raise
        return True

    def _commit_soon(self) -> None:
        self._wake.put(None)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._commit_for_ever, name="ledger", daemon=True)
            with suppress(RuntimeError):  # the interpreter is about to end: ``close`` commits what waits
                self._thread.start()

    def _commit_for_ever(self) -> None:
        pause = threading.Event()
        seconds = BATCH_SECONDS
        while True:
            self._wake.get()
            pause.wait(seconds)
            if self._is_in_the_way():
                self._wake.put(None)
                continue
            while not self._wake.empty():
                self._wake.get()  # one commit is the answer to all
            done = False
            try:
                done = self.try_flush()
            except Exception:
                logger.exception("The ledger's thread goes on.")  # nobody would tell an idle process to start another
            seconds = BATCH_SECONDS if done else min(2 * seconds, LONGEST_PAUSE)

    def _shares_a_file_with_an_open_transaction(self) -> bool:
        # SQLite has one writer: our commit would wait for the transaction that is waiting for us. The rows go after
        # it; its rollback does not touch them.
        home = connections[alias()]
        if home.vendor != "sqlite":
            return False
        for connection in connections.all(initialized_only=True):
            # The same file may have several aliases.
            if _in_transaction(connection) and connection.settings_dict["NAME"] == home.settings_dict["NAME"]:
                self._in_the_way = connection
                return True
        return False

    def _is_in_the_way(self) -> bool:
        # Of several threads' transactions the last is known: the others are waited for in the database, and tried again.
        connection = self._in_the_way
        if connection is not None and _in_transaction(connection):
            return True
        self._in_the_way = None
        return False


def _in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Whether SQLite's transaction is open there, by ``atomic()`` or by hand."""
    return connection.vendor == "sqlite" and connection.connection is not None and connection.connection.in_transaction


recorder = Recorder()
os.register_at_fork(
    # The lock of the batches is not waited for: the child has a new one, and the store guards itself.
    before=lambda: recorder._lock.acquire(),
    after_in_parent=lambda: recorder._lock.release(),
    after_in_child=recorder.after_fork,
)
atexit.register(recorder.close)
