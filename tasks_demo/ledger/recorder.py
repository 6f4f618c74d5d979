"""The observer that writes points down.

The start of a body is committed before the body runs. If that fails, or takes longer than TASKS_DEMO_LEDGER_WAIT_SECONDS, the
job goes on all the same, unless it needs the ledger (``needs_ledger`` of its task, or TASKS_DEMO_LEDGER_REQUIRED): then
LedgerUnavailable is raised, and it does not run. Publishing waits as long, and everything else for nothing: a thread commits it
BATCH_SECONDS later, or with the next start.

After one failure nobody waits: points are kept in memory, and the thread tries again by itself, after pauses that grow to
LONGEST_PAUSE seconds. When the ledger is back, what was kept is written with the moments at which it happened, and one
event ``gap`` says how many points were late and how many are lost (see ``ledger.gap``). All that a worker's main process sees
goes through the thread, so that the event loop never waits for a commit.

What is **not** guaranteed: a SIGKILL loses what is not committed yet: of a delivery the points after its start, those of the
last BATCH_SECONDS, up to and including a ``returned``, and while the ledger is away all that is kept, starts too. A process that
ends while it is away says how many events it takes along. So counts of deliveries and ends are lower bounds, and those of
executions are exact where the ledger is required (but for a ``started`` that was committed and whose answer was lost: that
body does not run). ``TASKS_DEMO_LEDGER_WRITE_THROUGH`` commits every point of the body when it is reached, in a pool process;
the lab uses it.
"""

from __future__ import annotations

import atexit
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
from tasks_demo.core.lifecycle import BY_MAIN, FOLLOWS, MUST_PRECEDE, Point, Reached, current
from tasks_demo.ledger.books import counted_by
from tasks_demo.ledger.events import EFFECT, GAP, EventData
from tasks_demo.ledger.gap import Gap
from tasks_demo.ledger.sampling import Sampling
from tasks_demo.ledger.store import alias, off_in_tests, store, unsupported

logger = logging.getLogger(__name__)

#: Kept while the database is away, about 20 MB; beyond this the oldest go, and are counted.
MOST_KEPT = 20_000
#: Events of one transaction: when the ledger is back, others want to write, too.
MOST_AT_ONCE = 1000
#: Whoever waits for a commit that is under way gives up after this long, seconds, if nothing shorter is set.
MOST_PATIENCE = 30.0
#: Seconds that the thread waits for company before it commits.
BATCH_SECONDS = 0.05
#: What its pause doubles up to, seconds, while the database is away.
LONGEST_PAUSE = 5.0


class Recorder:
    """One per process: numbers its events, so that each counts once however often it is sent."""

    def __init__(self) -> None:
        self.run = ""
        self.write_through = settings.LEDGER_WRITE_THROUGH
        #: No body runs without a recorded start.
        self.required = settings.LEDGER_REQUIRED
        self.wait_seconds = settings.LEDGER_WAIT_SECONDS
        self.sampling = Sampling(settings.LEDGER_TASKS)
        #: For the lab, which kills them: the worker's main process commits at once, too; all wait as long as the database does.
        self.main_waits = self.patient = False
        #: Why nothing can be recorded here, or ""; None: not asked yet.
        self._off: str | None = None
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
        self._waiting: deque[EventData] = deque()
        #: Being committed now.
        self._in_flight: list[EventData] = []
        #: The ledger is away: nobody waits for it.
        self._gap: Gap | None = None
        #: Something waits. Not an Event, which a handler that interrupts its ``set`` could not set, either.
        self._wake: SimpleQueue[None] = SimpleQueue()
        #: Whoever waits for the thread's next commit: a lock that it releases.
        self._hurry: SimpleQueue[Any] = SimpleQueue()
        self._thread: threading.Thread | None = None
        #: Whose open transaction put off the last commit.
        self._in_the_way: BaseDatabaseWrapper | None = None

    def after_fork(self) -> None:
        """In a forked child: the parent commits what the parent saw."""
        self._start_afresh()

    def __call__(self, event: Reached) -> None:
        """Observe one point. Raises LedgerUnavailable at a start that must be recorded, and nothing otherwise."""
        if off_in_tests():
            return
        subject = event.subject
        if why := self._why_off():
            if event.point in MUST_PRECEDE and (self.required or subject.needs_ledger):
                raise LedgerUnavailable(why)
            return
        if not self.sampling.includes(subject.task, subject.ledger, subject.task_id):
            return
        row = self.note(
            event.point,
            at=event.at,
            task_id=subject.task_id,
            operation=subject.operation,
            pattern=subject.pattern,
            worker=subject.worker,
            books=counted_by(subject.books),
            task=subject.task,
            detail=event.detail,
        )
        point = event.point
        if point is Point.STARTED and not subject.pattern:
            self._commit_in_time()  # Celery runs a body without a pattern whatever an observer says: its start is kept
        elif point in MUST_PRECEDE:
            # The start says all that a claim says: one commit for both.
            if point is Point.STARTED or self.write_through:
                if self.required or subject.needs_ledger:
                    self.flush(announced=row)
                else:
                    self._commit_in_time()
        elif point in FOLLOWS:
            if self.write_through:
                self._commit_in_time()
        elif self._may_wait(point):
            self._commit_in_time()
        else:
            self._commit_soon()

    def effect(self, source: str, operation: str, detail: dict[str, Any]) -> bool:
        """Keep an effect that the running task records itself, under a name of its own; waits as publishing does.

        Whether the ledger has it now; if not, it follows, unless this process is killed before.
        """
        subject = current()
        if self._why_off():
            return False
        if subject and not self.sampling.includes(subject.task, subject.ledger, subject.task_id):
            return False
        self.note(
            EFFECT,
            at=time.time(),
            source=source,
            operation=operation,
            task_id=subject.task_id if subject else "",
            pattern=subject.pattern if subject else "",
            worker=subject.worker if subject else "",
            task=subject.task if subject else "",
            detail=detail,
        )
        return self._commit_in_time()

    def _why_off(self) -> str:
        if self._off is None:
            self._off = unsupported()
            if self._off:
                logger.error("%s", self._off)
        return self._off

    def _may_wait(self, point: Point) -> bool:
        if point is Point.RETURNED:
            return self.write_through
        return self.main_waits or not (self.is_main or point in BY_MAIN)

    def note(self, kind: str, *, at: float, source: str = "", **fields: Any) -> EventData:
        """Put one event into the next batch; without a ``source`` of its own it gets the next number."""
        with self._lock:
            source = source or f"{self._token}:{next(self._numbers)}"
            row = EventData(at=at, kind=str(kind), source=source, pid=self._pid, run=self.run, **fields)
            self._waiting.append(row)
            if self._gap is not None:
                self._gap.add_late([row])
            if len(self._waiting) > MOST_KEPT:
                if self._gap is None:
                    self._gap = Gap()
                self._gap.add_lost(self._waiting.popleft())
        return row

    def flush(self, announced: EventData | None = None) -> bool:
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

    def try_flush(self, patience: float | None = None) -> bool:
        """Commit what waits; on failure log it and keep it for the next time. Whether it was committed."""
        try:
            done = self._flush(patience=patience)
        except LedgerUnavailable as error:
            self._is_away(error)
            done = False
        if not done:
            self._commit_soon()
        return done

    def close(self) -> None:
        """Commit what waits and close the connection; waits for both as long as publishing does."""
        if self._unwritten() and not self._commit_in_time(even_if_away=True):
            logger.error("Events of the ledger lost if this process ends now: %d.", self._unwritten())
        store.close(None if self.patient else self.wait_seconds)

    def _commit_in_time(self, *, even_if_away: bool = False) -> bool:
        """Commit what waits, within ``wait_seconds``; what takes longer follows later. Whether it was committed."""
        if self.patient:
            return self.try_flush()
        if self._gap is not None and not even_if_away:
            self._commit_soon()
            return False
        if not store.can_hang():
            return self.try_flush(self.wait_seconds)
        # A server may never answer: the thread waits for it, and this one for the thread.
        done = threading.Lock()
        done.acquire()
        self._hurry.put(done)
        self._commit_soon()
        if not done.acquire(timeout=self.wait_seconds):
            self._is_away(f"The ledger's database has not answered for {self.wait_seconds:g} s.")
        return self._gap is None

    def _unwritten(self) -> int:
        return len(self._in_flight) + len(self._waiting)

    def _is_away(self, why: object) -> None:
        with self._lock:
            if self._gap is None:
                self._gap = Gap()
                self._gap.add_late((*self._in_flight, *self._waiting))
            self._gap.say(why, self._unwritten())

    def _flush(self, announced: EventData | None = None, patience: float | None = None) -> bool:
        # Asked first: the thread may hold the lock while it waits for the very transaction that we are in.
        if self._shares_a_file_with_an_open_transaction():
            return False
        seconds = MOST_PATIENCE if patience is None else patience
        if not self._flushing.acquire(timeout=seconds):
            raise LedgerUnavailable(f"The ledger's database has not answered for {seconds:g} s.")
        try:
            while rows := self._next_batch(announced):
                try:
                    store.append(rows, patience)
                except BaseException:
                    with self._lock:
                        self._in_flight = []
                        self._waiting.extendleft(row for row in reversed(rows) if row is not announced)
                    raise
                self._in_flight = []
                if rows[-1].kind == GAP:
                    logger.warning(
                        "The ledger is back. Events written late: %(late)d; lost: %(lost)d.", rows[-1].detail
                    )
        finally:
            self._flushing.release()
        return True

    def _next_batch(self, announced: EventData | None) -> list[EventData]:
        with self._lock:
            if announced is not None and not any(row is announced for row in self._waiting):
                return []  # the thread was quicker, or it is done
            if not self._waiting and self._gap is not None:
                gap, self._gap = self._gap, None
                self.note(GAP, at=time.time(), detail=gap.detail())
            self._in_flight = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_AT_ONCE))]
            return self._in_flight

    def _commit_soon(self) -> None:
        self._wake.put(None)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._commit_for_ever, name="ledger", daemon=True)
            with suppress(RuntimeError):  # the interpreter is about to end: ``close`` commits what waits
                self._thread.start()

    def _commit_for_ever(self) -> None:
        seconds = BATCH_SECONDS
        while True:
            self._wake.get()
            in_a_hurry = []
            with suppress(Empty):
                in_a_hurry.append(self._hurry.get(timeout=seconds))
            if self._is_in_the_way():
                self._wake.put(None)
                continue
            while not self._wake.empty():
                self._wake.get()  # one commit is the answer to all
            while not self._hurry.empty():
                in_a_hurry.append(self._hurry.get())
            done = False
            try:
                done = self.try_flush()
            except Exception:
                logger.exception("The ledger's thread goes on.")  # nobody would tell an idle process to start another
                self._commit_soon()
            for waits in in_a_hurry:
                waits.release()
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
    if connection.vendor != "sqlite" or connection.connection is None:
        return False
    try:
        return bool(connection.connection.in_transaction)
    except (AttributeError, sqlite3.ProgrammingError):  # its thread has closed it meanwhile
        return False


recorder = Recorder()
os.register_at_fork(
    # The lock of the batches is not waited for: the child has a new one, and the store guards itself.
    before=lambda: recorder._lock.acquire(),
    after_in_parent=lambda: recorder._lock.release(),
    after_in_child=recorder.after_fork,
)
atexit.register(recorder.close)
