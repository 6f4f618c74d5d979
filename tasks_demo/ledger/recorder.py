"""Records every point of a task (``core.lifecycle``) as an event of the ledger, and decides which points wait for their commit.

Does **not** guarantee that events survive SIGKILL: those of a delivery that follow its start, up to and including ``returned``,
are lost if they are not committed yet; while the ledger is unavailable, so are starts. So counts of deliveries and ends are lower
bounds. Counts of executions are exact if the ledger is required, except for a ``started`` whose commit succeeded but whose reply
was lost: that body does not run.

The start of a body is committed before the body runs. If the commit fails, or takes longer than TASKS_DEMO_LEDGER_WAIT_SECONDS,
the body runs anyway, unless it needs the ledger (``needs_ledger`` of its task, or TASKS_DEMO_LEDGER_REQUIRED): then
LedgerUnavailable is raised and the body does not run. Publishing waits for at most the same time. No other point waits;
``EventWriter`` commits it shortly afterwards. In a worker's main process no point waits, so that a commit never blocks the event
loop. ``TASKS_DEMO_LEDGER_WRITE_THROUGH`` commits every point of the body immediately, in a pool process; the lab uses it.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from typing import Any

from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import LedgerUnavailable
from tasks_demo.core.lifecycle import BY_MAIN, FOLLOWS, MUST_PRECEDE, Point, Reached, current
from tasks_demo.ledger.books import counted_by
from tasks_demo.ledger.database import off_in_tests, unsupported
from tasks_demo.ledger.events import EFFECT
from tasks_demo.ledger.sampling import Sampling
from tasks_demo.ledger.writer import EventWriter

logger = logging.getLogger(__name__)


class Recorder(EventWriter):
    """Observes the lifecycle and records its points. One per process."""

    def __init__(self) -> None:
        super().__init__()
        self.write_through = settings.LEDGER_WRITE_THROUGH
        #: No body runs without a recorded start.
        self.required = settings.LEDGER_REQUIRED
        self.sampling = Sampling(settings.LEDGER_TASKS)
        #: For the lab, which kills the main process: it waits for its commits too.
        self.main_waits = False
        #: Why nothing can be recorded here; "": it can be; None: not checked yet.
        self._off: str | None = None

    def start_afresh(self) -> None:
        super().start_afresh()
        #: Whether this is a worker's main process. Pool processes do not inherit it.
        self.is_main = False

    def __call__(self, event: Reached) -> None:
        """Record one point. Raises LedgerUnavailable only for a point that must precede the body, if the ledger is required."""
        if off_in_tests():
            return
        subject = event.subject
        if why := self._why_off():
            if event.point in MUST_PRECEDE and (self.required or subject.needs_ledger):
                raise LedgerUnavailable(why)
            return
        if not self.sampling.includes(subject.task, subject.ledger, subject.task_id):
            return
        noted = self.note(
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
            self.commit_in_time()  # without a pattern Celery runs the body even if an observer raises, so its start is kept
        elif point in MUST_PRECEDE:
            # A start implies the claim, so one commit serves both.
            if point is Point.STARTED or self.write_through:
                if self.required or subject.needs_ledger:
                    self.flush(announced=noted)
                else:
                    self.commit_in_time()
        elif point in FOLLOWS:
            if self.write_through:
                self.commit_in_time()
        elif self._may_wait(point):
            self.commit_in_time()
        else:
            self.commit_soon()

    def effect(self, source: str, operation: str, detail: dict[str, Any]) -> bool:
        """Record an effect that the running task reports, under its own ``source``. Waits for at most wait_seconds.

        Returns whether it is committed. If not, it is committed later, unless this process is killed first.
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
        return self.commit_in_time()

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


recorder = Recorder()
os.register_at_fork(
    # The lock on commits is not acquired: the child gets a new one, and the store has its own fork handlers.
    before=lambda: recorder._lock.acquire(),
    after_in_parent=lambda: recorder._lock.release(),
    after_in_child=recorder.start_afresh,
)
atexit.register(recorder.close)
