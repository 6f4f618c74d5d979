"""Reads the worker processes that the ledger knows, and judges from evidence whether each lives.

A process counts as dead only if it has certainly ended: on this machine, in the same boot, its pid is gone or belongs to another
process. A worker elsewhere that does not report is *silent*: it may be dead, suspended, or cut off from the database.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import DateTimeField, QuerySet
from django.db.models.functions import Cast

from tasks_demo.core.clock import Now
from tasks_demo.dashboard.labels import Badge
from tasks_demo.hooks.presence import BEAT_SECONDS
from tasks_demo.leases.process import parse_process, this_process
from tasks_demo.ledger.worker_process import WorkerProcess

#: A worker that has not reported for this long, in seconds, is silent.
SILENT_SECONDS = 6 * BEAT_SECONDS
#: Maximum number of processes on the page, latest first.
MOST_SHOWN = 100

ALIVE, SILENT, DEAD, STOPPED = "alive", "silent", "dead", "stopped"
STATES: dict[str, Badge] = {
    ALIVE: Badge("ok", "✓", "alive", "its process exists, or it has reported just now"),
    SILENT: Badge("unresolved", "?", "silent", "it does not report, and nobody here can see its process"),
    DEAD: Badge("lost", "✗", "dead", "its process is gone, and it did not end by itself"),
    STOPPED: Badge("unresolved", "■", "stopped", "it ended by itself"),
}


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process. ``evidence``: why it counts as ``state``. ``silent_seconds``: since its last report."""

    row: WorkerProcess
    state: str
    evidence: str
    silent_seconds: float
    #: A later process of the same name began then; its events are not this one's.
    until: datetime | None = None

    @property
    def badge(self) -> Badge:
        return STATES[self.state]

    @property
    def lived(self) -> timedelta:
        """From its start to its last report."""
        return max((self.row.stopped_at or self.row.seen_at) - self.row.started_at, timedelta())

    @property
    def holds(self) -> int:
        """Jobs that it held when it last reported."""
        return len(self.row.held) + int(self.row.held_more)


def workers() -> tuple[list[Worker], bool]:
    """Return the latest processes: those that have not ended by themselves first. Also returns whether some were left out."""
    rows = list(_rows().order_by("-id")[: MOST_SHOWN + 1])
    found = _judged(rows[:MOST_SHOWN])
    order = (ALIVE, SILENT, DEAD, STOPPED)
    return sorted(found, key=lambda worker: order.index(worker.state)), len(rows) > MOST_SHOWN


def unstopped(most: int) -> list[Worker]:
    """Return the latest ``most`` processes that are dead or silent."""
    rows = _rows().filter(stopped_at=None).order_by("-id")[:MOST_SHOWN]
    return [worker for worker in _judged(rows) if worker.state in (DEAD, SILENT)][:most]


def worker(pk: int) -> Worker | None:
    """Return one process, or None."""
    row = _rows().filter(pk=pk).first()
    if row is None:
        return None
    later = WorkerProcess.objects.filter(name=row.name, pk__gt=pk).order_by("id").values_list("started_at", flat=True)
    return _judge(row, later.first())


def _rows() -> QuerySet[WorkerProcess]:
    # The database's clock, because reports are stamped by it.
    return WorkerProcess.objects.annotate(now=Cast(Now(), DateTimeField()))


def _judged(rows: Iterable[WorkerProcess]) -> list[Worker]:
    """Judge rows, latest first. A name's later process is found among them."""
    found: list[Worker] = []
    later: dict[str, datetime] = {}
    for row in rows:
        found.append(_judge(row, later.get(row.name)))
        later[row.name] = row.started_at
    return found


def _judge(row: WorkerProcess, until: datetime | None) -> Worker:
    silent = max((row.now - row.seen_at).total_seconds(), 0.0)  # type: ignore[attr-defined]
    process = parse_process(row.process)
    here = process is not None and bool(process.where) and process.where == this_process("").where
    if row.stopped_at is not None:
        state, evidence = STOPPED, "It reported that it ended by itself."
    elif process is not None and process.gone:
        state, evidence = DEAD, f"It runs no more on this machine: process {row.pid} is gone, in the same boot."
    elif here:
        state, evidence = ALIVE, f"Process {row.pid} exists on this machine."
    elif silent < SILENT_SECONDS:
        state, evidence = ALIVE, "It runs where its process cannot be seen from here, and has reported just now."
    else:
        state = SILENT
        evidence = (
            f"It runs where its process cannot be seen from here, and has not reported for {silent:.0f} s. It may be dead, "
            "suspended, or cut off from the ledger's database."
        )
    return Worker(row, state, evidence, silent, until)
