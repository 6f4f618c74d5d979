"""Counts the points of a task's life in each process, as an observer of the lifecycle."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict

from celery import current_app
from prometheus_client import Counter, Histogram

from tasks_demo.core.lifecycle import Point, Reached, described, job_fields
from tasks_demo.core.limited_log import limited_log
from tasks_demo.ledger import gap

logger = logging.getLogger(__name__)
LABELS = ("task", "pattern")
#: The task label of messages whose task is not registered here: publishers choose these names, so their number is unbounded.
UNKNOWN = "(unknown)"
COUNTERS = {
    Point.RECEIVED: Counter("tasks_demo_deliveries", "Messages that workers received from the broker.", LABELS),
    Point.STARTED: Counter("tasks_demo_executions", "Bodies that began.", LABELS),
    Point.SUPPRESSED: Counter("tasks_demo_suppressed", "Deliveries of completed operations: no body ran.", LABELS),
    Point.DEFERRED: Counter(
        "tasks_demo_deferred", "Deliveries that were requeued, to be delivered again later.", LABELS
    ),
    Point.LEASE_LOST: Counter("tasks_demo_lease_lost", "Executions that lost their lease.", LABELS),
    Point.QUARANTINED: Counter("tasks_demo_parked", "Messages parked after too many attempts.", LABELS),
}
#: Does **not** measure executions whose process is killed: their end is not recorded.
SECONDS = Histogram(
    "tasks_demo_execution_seconds", "Time from the start of a body to its end, successful or not.", LABELS,
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600),
)  # fmt: skip
LEDGER = Counter(
    "tasks_demo_ledger_not_written",
    "Events that the ledger could not write in time: written late, or lost.",
    ["what"],
)
_ENDS = frozenset(
    {Point.RETURNED, Point.FAILED, Point.RETRIED, Point.DEFERRED, Point.REJECTED, Point.IGNORED, Point.REPLACED}
)
#: Maximum number of running executions whose start time is kept, per process. No pool runs this many at once.
MOST = 10_000


class Counters:
    """Counts points. Never raises: an error here must not fail or delay a job."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: OrderedDict[str, float] = OrderedDict()
        self._ledger_known: dict[str, int] = {}

    def __call__(self, event: Reached) -> None:
        """Count one point."""
        try:
            self._count(event)
        except Exception as error:  # noqa: BLE001  (for example a full disk at PROMETHEUS_MULTIPROC_DIR)
            limited_log(
                logger, logging.ERROR, ("metrics", type(error).__name__), "[%s]: %s was not counted: %s",
                event.subject.task_id, event.point, described(error), extra=job_fields(event.subject),
            )  # fmt: skip

    def _count(self, event: Reached) -> None:
        subject, point = event.subject, event.point
        labels = (subject.task if subject.task in current_app.tasks else UNKNOWN, subject.pattern or "none")
        if point in COUNTERS:
            COUNTERS[point].labels(*labels).inc()
        if point is Point.STARTED:
            with self._lock:
                self._begun[subject.task_id] = time.monotonic()
                if len(self._begun) > MOST:
                    self._begun.popitem(last=False)
        elif point in _ENDS:
            with self._lock:
                began = self._begun.pop(subject.task_id, None)
            if began is not None:
                SECONDS.labels(*labels).observe(time.monotonic() - began)
        self._count_ledger()

    def _count_ledger(self) -> None:
        for what, number in gap.totals.items():
            if (more := number - self._ledger_known.get(what, 0)) > 0:
                self._ledger_known[what] = number
                LEDGER.labels(what).inc(more)


counters = Counters()
