"""A cell of a run: what its parts share, and what the lab itself records of it in the ledger."""

from __future__ import annotations

import itertools
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks_demo.demo.tasks import CHARGES
from tasks_demo.lab.plan.cells import Cell
from tasks_demo.lab.plan.jobs import jobs_of
from tasks_demo.lab.plan.timing import visibility_timeout
from tasks_demo.lab.processes.brokers import RedisLane
from tasks_demo.lab.processes.environment import Environment
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


class CellRun:
    """A cell with its jobs, its victims (task ID → point) and its own key prefix on the broker. ``folder``: for logs.

    Its events may be written from any thread; they are numbered, so that none is stored twice.
    """

    def __init__(self, cell: Cell, run_id: str, environment: Environment, folder: Path) -> None:
        self.cell = cell
        self.name = f"{run_id}:{cell.name}"
        self.hex_name = uuid.uuid5(uuid.NAMESPACE_URL, self.name).hex
        self.environment = environment
        self.folder = folder
        self.task = CHARGES[cell.pattern]
        self.jobs = jobs_of(cell, self.name)
        self.victims = {self.jobs[index].task_ids[0]: point for index, point in sorted(cell.victims.items())}
        self.aimed = self.victims if cell.fault.aimable else {}
        self.visibility_timeout = visibility_timeout(cell)
        self.broker = RedisLane(environment.redis_url, f"lab:{run_id}:{cell.name}:")
        self._operations = {id_: job.kwargs.get("operation", id_) for job in self.jobs for id_ in job.task_ids}
        self._numbers = itertools.count(1)

    def transport_options(self, worker: str = "") -> dict[str, Any]:
        """Return kombu's options for a connection to this cell's queues."""
        return self.broker.transport_options(self.visibility_timeout, worker)

    def row(self, kind: str, **fields: Any) -> EventData:
        """Return an event for ``store.append``."""
        task_id = fields.get("task_id", "")
        return EventData(
            at=time.time(),
            kind=kind,
            source=f"{self.name}#{next(self._numbers)}",
            pattern=self.cell.pattern,
            run=self.name,
            operation=self._operations.get(task_id, task_id),
            books=self.task.books if task_id else "",
            task=self.task.name if task_id else "",
            **fields,
        )

    def record_fault(self, task_id: str, report: FaultReport) -> None:
        store.append([self.row(FAULT, task_id=task_id, pid=report.pid, detail=asdict(report))])

    def record_worker(self, state: str, *, name: str = "", pid: int | None = None, **detail: Any) -> None:
        """Record that a worker is ``ready`` or has ``exited``."""
        store.append([self.row(WORKER, worker=name, pid=pid, detail={"state": state, **detail})])

    def record_end(self, end: CellEnd) -> None:
        store.append([self.row(QUIESCENT, detail=asdict(end))])
