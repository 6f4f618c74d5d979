"""Runs one cell: nemesis up, worker started, jobs published, faults injected, drained to quiescence.

A lane has a key prefix, a worker and a nemesis of its own, so that several cells run side by side and the waiting (for
leases and visibility timeouts) costs no time.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tasks_demo.core.lifecycle import BY_MAIN, Point
from tasks_demo.lab.engine.cell_log import CellEnd, CellLog
from tasks_demo.lab.engine.draining import drain
from tasks_demo.lab.engine.publishing import Publisher
from tasks_demo.lab.engine.unaimed_faults import UnaimedFaults
from tasks_demo.lab.engine.workers import Workers
from tasks_demo.lab.plan import timing
from tasks_demo.lab.plan.cells import Cell
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.jobs import jobs_of
from tasks_demo.lab.processes.brokers import RedisLane
from tasks_demo.lab.processes.environment import Environment
from tasks_demo.lab.processes.nemesis import Nemesis
from tasks_demo.lab.processes.specs import WorkerSpec
from tasks_demo.ledger.models import Event


@dataclass
class Progress:
    """What a screen shows of a cell while it runs. ``left``: messages that are not done; ``landed``: faults."""

    cell: Cell
    state: str = "waiting"
    left: int = 0
    landed: int = 0


@dataclass
class Lane:
    """Runs one cell. ``folder``: for the worker's log."""

    cell: Cell
    run_id: str
    environment: Environment
    folder: Path
    stop: threading.Event
    progress: Callable[[Progress], None]
    _shown: Progress = field(init=False)

    def __post_init__(self) -> None:
        cell = self.cell
        self.name = f"{self.run_id}:{cell.name}"
        self._jobs = jobs_of(cell, self.name)
        self._victims = {self._jobs[index].task_ids[0]: point for index, point in sorted(cell.victims.items())}
        self._aimed = self._victims if cell.fault.aimable else {}
        self._visibility_timeout = timing.visibility_timeout(cell)
        self._broker = RedisLane(self.environment.redis_url, f"lab:{self.run_id}:{cell.name}:")
        self._log = CellLog(self.name, cell, self._jobs)
        self._shown = Progress(cell, left=cell.tasks)

    def run(self) -> CellEnd:
        """Run the cell and return its end, which the caller completes and passes to ``log_end``.

        Raises Stop when the run is interrupted; EnvironmentNotReady and broker errors when infrastructure fails.
        """
        cell, environment = self.cell, self.environment
        started = time.monotonic()
        nemesis = Nemesis(
            environment.socket_dir / f"{uuid.uuid4().hex[:8]}.sock",
            cell.fault,
            self._aimed,
            on_fault=self._log.fault,
            on_ready=lambda pid: self._log.worker("ready", pid=pid),
            precondition=self._unmet if timing.acknowledges_early(cell) else None,
            pause_seconds=timing.TOO_LONG_SECONDS,
        )
        workers = Workers(
            self._spec(nemesis.address),
            broker=self._broker,
            visibility_timeout=self._visibility_timeout,
            template=environment.template,
            nemesis=nemesis,
            log=self._log,
        )
        publisher = Publisher(
            cell,
            self._jobs,
            broker=self._broker,
            visibility_timeout=self._visibility_timeout,
            log=self._log,
            workers=workers,
            stop=self.stop,
        )
        unaimed = UnaimedFaults(
            cell.fault,
            list(self._victims),
            run=self.name,
            name=uuid.uuid5(uuid.NAMESPACE_URL, self.name).hex,
            bank_url=environment.bank_url,
            visibility_timeout=self._visibility_timeout,
        )
        try:
            with publisher.relaying():
                unaimed.inject()
                workers.start()
                self._show("running")
                publisher.publish()
                reason = drain(
                    workers,
                    self._broker,
                    unfinished=publisher.unfinished,
                    deadline=started + timing.time_limit(cell),
                    stop=self.stop,
                    progress=lambda left: self._show("running", left=left, landed=nemesis.landed),
                )
            unaimed.report(nemesis)
        finally:
            nemesis.close()
            unaimed.remove()
        held, exited = self._broker.holdings(), workers.exited.is_set()
        self._show("reading the books", left=self._shown.left, landed=nemesis.landed)
        return CellEnd(
            queued=held.queued,
            unacked=held.unacked,
            outbox=publisher.unfinished(),
            running=0 if exited else timing.concurrency(cell),
            workers=0 if exited else 1,
            published=publisher.confirmed,
            planned_kills=timing.planned_faults(cell),
            tasks=sum(len(job.task_ids) for job in self._jobs),
            seed=cell.seed,
            publisher=cell.publisher,
            clicks=cell.clicks,
            duration_s=round(time.monotonic() - started, 3),
            reason=reason,
        )

    def log_end(self, end: CellEnd) -> None:
        """Write the last event of the cell."""
        self._log.end(end)
        self._show("unknown" if end.reason else "done", left=self._shown.left, landed=self._shown.landed)

    def clean(self) -> None:
        """Delete what the lane left in Redis."""
        self._broker.purge()
        self._broker.client.close()

    def _spec(self, nemesis_address: str) -> WorkerSpec:
        cell = self.cell
        return WorkerSpec(
            name=cell.name.replace("/", ".").replace("@", "."),
            run=self.name,
            socket=nemesis_address,
            victims={task_id: str(point) for task_id, point in self._aimed.items()},
            log=str(self.folder / f"{cell.name.replace('/', '-').replace('@', '-')}.log"),
            broker_url=self._broker.broker_url,
            transport_options=self._broker.transport_options(self._visibility_timeout),
            redis_url=self.environment.redis_url,
            key_prefix=self._broker.prefix,
            lease_seconds=timing.LEASE_SECONDS,
            bank_url=self.environment.bank_url,
            concurrency=timing.concurrency(cell),
            # A delivery that main did not live to write down would be missing beside its execution. But Celery's handler of
            # SIGQUIT reports on every job in hand, and would wait in the middle of main's commit for that commit.
            main_waits=cell.fault is not Fault.QUIT,
            settings={"MAX_ATTEMPTS": timing.MAX_ATTEMPTS, **timing.OUTBOX_SETTINGS},
        )

    def _unmet(self, task_id: str, point: str) -> str:
        """What a fault at an early-acknowledged job still waits for, or ""."""
        if point == Point.ACKING:
            done = Event.objects.filter(run=self.name, task_id=task_id, kind=Point.EFFECT_DONE).exists()
            return "" if done else "the body had no effect"
        if point in BY_MAIN:
            return ""
        return "the message was not acknowledged" if self._broker.holds(task_id) else ""

    def _show(self, state: str, **numbers: int) -> None:
        self._shown = Progress(self.cell, state, **{"left": self.cell.tasks, **numbers})
        self.progress(self._shown)
