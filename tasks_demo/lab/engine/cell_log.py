"""What the lab itself knows of a cell, written into the ledger: publications, workers, faults, and the end."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tasks_demo.demo.tasks import CHARGES
from tasks_demo.lab.plan.cells import Cell
from tasks_demo.lab.plan.jobs import Job
from tasks_demo.lab.processes.nemesis import FaultReport
from tasks_demo.ledger.events import FAULT, QUIESCENT, WORKER, EventData
from tasks_demo.ledger.store import store


@dataclass(kw_only=True)
class CellEnd:
    """The last event of a cell: what was left to do, and how much was recorded. ``lab.verdict.quiescence`` reads it."""

    queued: int
    unacked: int
    outbox: int
    running: int
    workers: int
    published: int
    planned_kills: int
    tasks: int
    seed: int
    publisher: str
    clicks: int
    duration_s: float
    reason: str
    deferred: int = 0
    books_read: bool = False
    events: dict[str, int] = field(default_factory=dict)


class CellLog:
    """Writes the events of one cell; may be used from any thread. Events are numbered, so that none is stored twice."""

    def __init__(self, run: str, cell: Cell, jobs: Sequence[Job]) -> None:
        self.run = run
        self._pattern = cell.pattern
        self._task = CHARGES[cell.pattern]
        self._operations = {task_id: job.kwargs.get("operation", task_id) for job in jobs for task_id in job.task_ids}
        self._numbers = itertools.count(1)

    def row(self, kind: str, **fields: Any) -> EventData:
        """Return the event for ``store.append``."""
        task_id = fields.get("task_id", "")
        return EventData(
            at=time.time(),
            kind=kind,
            source=f"{self.run}#{next(self._numbers)}",
            pattern=self._pattern,
            run=self.run,
            operation=self._operations.get(task_id, task_id),
            books=self._task.books if task_id else "",
            task=self._task.name if task_id else "",
            **fields,
        )

    def fault(self, task_id: str, report: FaultReport) -> None:
        """Write a fault."""
        store.append([self.row(FAULT, task_id=task_id, pid=report.pid, detail=report.as_dict())])

    def worker(self, state: str, *, name: str = "", pid: int | None = None, **detail: Any) -> None:
        """Write that a worker is ``ready`` or has ``exited``."""
        store.append([self.row(WORKER, worker=name, pid=pid, detail={"state": state, **detail})])

    def end(self, end: CellEnd) -> None:
        """Write the end of the cell."""
        store.append([self.row(QUIESCENT, detail=asdict(end))])
