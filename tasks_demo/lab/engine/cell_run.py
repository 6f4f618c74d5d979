"""A cell of a run: what its parts share, and what the lab itself records of it in the ledger."""

from __future__ import annotations

import itertools
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from celery import current_app
from django.db import connections, router
from django.db.models import Count

from tasks_demo.core.lifecycle import Point
from tasks_demo.demo.shop.models import Booking
from tasks_demo.demo.tasks import CHARGES
from tasks_demo.lab import controls
from tasks_demo.lab.plan.brokers import KINDS
from tasks_demo.lab.plan.cells import Cell
from tasks_demo.lab.plan.disturbed_requests import HELD_AT, uses_database
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.jobs import Job, jobs_of
from tasks_demo.lab.plan.project_task import Call
from tasks_demo.lab.plan.timing import OVERLAPPING, visibility_timeout
from tasks_demo.lab.processes import databases
from tasks_demo.lab.processes.brokers import Lane
from tasks_demo.lab.processes.brokers.faulty import FaultyBroker, FaultyRabbit, FaultyRedis
from tasks_demo.lab.processes.brokers.redis import celery_address, client_address
from tasks_demo.lab.processes.environment import Environment
from tasks_demo.lab.processes.fault_proxy import FaultProxy
from tasks_demo.lab.processes.fault_report import FaultReport
from tasks_demo.lab.processes.project_tasks import operation_of
from tasks_demo.lab.processes.wall_clock import WallClock
from tasks_demo.lab.verdict.checker import CellResult
from tasks_demo.ledger.events import EFFECT, FAULT, QUIESCENT, SETTLED, WORKER, EventData
from tasks_demo.ledger.models import IN_A_RUN, Event
from tasks_demo.ledger.store import store


@dataclass(kw_only=True)
class CellEnd:
    """The last event of a cell: what was left to do, and how much was recorded. ``lab.verdict`` reads it.

    ``cells``: how many the run planned. ``waiting_limit``: ``timing.waiting_limit``.
    """

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
    semantics: str
    cells: int = 1
    judged: str = "books"
    load: int = 0
    deferred: int = 0
    waiting_limit: float = 0.0
    books_read: bool = False
    events: dict[str, int] = field(default_factory=dict)


class CellRun:
    """A cell with its jobs, its victims (task ID → point) and its own space on the broker (``broker``) and on Redis (``leases``).

    ``folder``: for logs. Its events may be written from any thread; they are numbered, so that none is stored twice.
    """

    def __init__(self, cell: Cell, run_id: str, environment: Environment, folder: Path) -> None:
        self.cell = cell
        self.name = f"{run_id}:{cell.name}"
        self.hex_name = uuid.uuid5(uuid.NAMESPACE_URL, self.name).hex
        self.environment = environment
        self.folder = folder
        self.control = controls.find(cell.pattern) if cell.project_task is None else None
        if self.control:
            controls.prepare(cell.pattern, environment.redis.url)
        self.task: Any = self.control.task if self.control else None
        if self.task is None:
            self.task = current_app.tasks[cell.project_task.name] if cell.project_task else CHARGES[cell.pattern]
        self.jobs = jobs_of(cell, self.name)
        self.victims = {self.jobs[index].task_ids[0]: point for index, point in sorted(cell.victims.items())}
        # A body of the project's may be over in a millisecond: the first is held until what happens to all jobs has begun.
        held = (
            cell.fault.aimable
            or cell.fault.disturbed_request in HELD_AT
            or (cell.project_task and cell.fault.once_per_cell)
        )
        self.aimed = self.victims if held else {}
        if cell.fault.among_queued and not cell.project_task:  # so may all of the demo's be
            self.aimed = {self.jobs[0].task_ids[0]: Point.STARTED}
        self.visibility_timeout = visibility_timeout(cell)
        self.leases = environment.redis.lane(cell.name)
        self.faulty_broker: FaultyBroker | None = None
        self.broker: Lane
        if cell.fault.of_broker:
            kind, place = KINDS[cell.broker], environment.socket_dir / uuid.uuid4().hex[:8]
            if kind.on_redis:
                self.faulty_broker = FaultyRedis(kind, place, place.with_suffix(".r"), cell.fault)
            else:
                self.faulty_broker = FaultyRabbit(kind, place, cell.name)
            self.broker = self.faulty_broker.lane
        else:
            self.broker = environment.brokers[cell.broker].lane(cell.name, environment.socket_dir)
        disturbance = next((fault for fault in cell.faults if fault.disturbance is not Fault.NONE), None)
        #: Between its workers and the broker, or before the server of the fault's request; None if no connection is disturbed.
        self.proxy: FaultProxy | None = None
        if disturbance:
            server = self.broker.broker_url
            if uses_database(cell.pattern, disturbance):
                server = databases.address()
            elif disturbance.disturbed_request == "claim":
                server = celery_address(self.leases.url)
            self.proxy = FaultProxy(server, environment.socket_dir, disturbance)
        #: Of its workers; None where it is right.
        self.clock: WallClock | None = None
        if cell.fault is Fault.CLOCK_JUMP:
            self.clock = WallClock(environment.socket_dir / f"{uuid.uuid4().hex[:8]}.t")
        self._operations = {id_: self._operation(job, id_) for job in self.jobs for id_ in job.task_ids}
        #: The first job of each operation.
        self.operations = {self._operations[job.task_ids[0]]: job for job in reversed(self.jobs)}
        self._numbers = itertools.count(1)
        #: What its workers write.
        self.worker_log = folder / f"{cell.name.replace('/', '-').replace('@', '-')}.log"
        #: Whether its workers run jobs that are not its own.
        self.runs_other_jobs = cell.project_task is not None or cell.fault is Fault.HOSTILE

    def _operation(self, job: Job, task_id: str) -> str:
        if self.cell.project_task is None:
            return str(job.kwargs.get("operation", task_id))
        return operation_of(self.task, Call(job.args, job.kwargs), task_id)

    def transport_options(self, worker: str = "") -> dict[str, Any]:
        """Return kombu's options for a connection to this cell's queues."""
        return self.broker.transport_options(self.visibility_timeout, worker)

    @property
    def worker_url(self) -> str:
        """Where its workers find the broker."""
        return self.proxy.url if self.proxy and not self.cell.fault.disturbed_request else self.broker.broker_url

    @property
    def database_port(self) -> int:
        """At which port of 127.0.0.1 its workers find the database; 0: where the run has it."""
        return self.proxy.port if self.proxy and uses_database(self.cell.pattern, self.cell.fault) else 0

    @property
    def leases_url(self) -> str:
        """Where its workers find the Redis of the leases."""
        if self.proxy is None or self.cell.fault.disturbed_request != "claim" or self.database_port:
            return self.leases.url
        return client_address(self.proxy.url)

    @property
    def publisher_url(self) -> str:
        """Where its publisher and its relay find the broker."""
        return (
            self.proxy.url if self.proxy and self.cell.fault.disturbed_request == "publish" else self.broker.broker_url
        )

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
            books=getattr(self.task, "books", "") if task_id else "",
            task=self.task.name if task_id else "",
            **fields,
        )

    def record_fault(self, task_id: str, report: FaultReport) -> None:
        store.append([self.row(FAULT, task_id=task_id, pid=report.pid, detail=report.detail())])

    def record_worker(self, state: str, *, name: str = "", pid: int | None = None, **detail: Any) -> None:
        """Record that a worker is ``ready`` or has ``exited``."""
        store.append([self.row(WORKER, worker=name, pid=pid, detail={"state": state, **detail})])

    def events(self) -> Iterator[Event]:
        """Yield the events of this cell in the order in which the ledger committed them, without those of other tasks that its
        jobs have published."""
        rows = Event.objects.filter(IN_A_RUN, run=self.name).exclude(kind=SETTLED).order_by("id")
        for event in rows.iterator(chunk_size=2000):
            if not self.runs_other_jobs or not event.task_id or event.task_id in self._operations:
                yield event

    def counts_as_effect(self, event: Event) -> bool:
        """Whether this event counts as an effect, because executions are judged."""
        return (
            self.cell.project_task is not None
            and self.cell.project_task.judged == "executions"
            and event.kind == Point.RETURNED
        )

    def count_events(self) -> dict[str, int]:
        """Return the number of the cell's events by kind."""
        if not self.runs_other_jobs:
            rows = Event.objects.filter(IN_A_RUN, run=self.name).exclude(kind=SETTLED).order_by()
            return dict(rows.values_list("kind").annotate(count=Count("id")))
        counts: Counter[str] = Counter()
        for event in self.events():
            counts.update([event.kind, EFFECT] if self.counts_as_effect(event) else [event.kind])
        return dict(counts)

    def failure(self) -> str:
        """How a body of the cell's jobs failed; empty: none is known to have failed."""
        failed = (event for event in self.events() if event.kind == Point.FAILED and not event.detail.get("abandoned"))
        return next((str(event.detail.get("why", "")) for event in failed), "")

    def is_of(self, result: CellResult) -> bool:
        """Whether the result is this cell's."""
        cell = self.cell
        return (cell.pattern, cell.fault_name, cell.point, cell.broker) == (
            *(result.pattern, result.fault, result.point, result.broker),
        )

    def record_effects(self, counted: Mapping[str, int]) -> None:
        """Record how often each operation took effect during the run."""
        store.append(
            [
                self.row(
                    EFFECT,
                    task_id=self.operations[operation].task_ids[0],
                    detail={"source": f"own:{operation}:{number}"},
                )
                for operation, count in counted.items()
                for number in range(count)
            ]
        )

    def record_end(self, end: CellEnd) -> None:
        store.append([self.row(QUIESCENT, detail=asdict(end))])


def runs_alone(cell: Cell) -> bool:
    """Whether the cell must run alone.

    So it must if its effects or operations are counted in tables that all cells share, if its fault hits what all share, or if it
    keeps a transaction open for seconds on SQLite, where no other cell can write meanwhile.
    """
    if cell.project_task is not None:
        return bool(cell.project_task.effects or cell.project_task.pattern)
    vendor = connections[router.db_for_write(Booking)].vendor
    locks = vendor == "sqlite" and cell.pattern == "inbox" and cell.fault in OVERLAPPING
    return locks or cell.fault is Fault.DATABASE_KILL
