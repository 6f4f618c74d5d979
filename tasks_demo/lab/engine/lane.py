"""Runs one cell: nemesis up, worker started, jobs published, faults injected, drained to quiescence.

A lane has a key prefix, a worker and a nemesis of its own, so that several cells run side by side and the waiting (for
leases and visibility timeouts) costs no time.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tasks_demo.core.lifecycle import BY_MAIN, Point
from tasks_demo.lab.engine.cell_run import CellEnd, CellRun
from tasks_demo.lab.engine.draining import drain, left_over
from tasks_demo.lab.engine.load import Load, own_memory
from tasks_demo.lab.engine.main_thread import MainThread
from tasks_demo.lab.engine.publishing import Publisher
from tasks_demo.lab.engine.unaimed_faults import UnaimedFaults
from tasks_demo.lab.engine.workers import Workers
from tasks_demo.lab.plan import timing
from tasks_demo.lab.plan.cells import Cell
from tasks_demo.lab.processes.nemesis import Nemesis
from tasks_demo.ledger.models import Event


@dataclass(frozen=True)
class Progress:
    """What a screen shows of a cell while it runs. ``left``: messages that are not done; ``injected``: faults.

    ``worker`` and ``pid``: the worker that was started last; ``alive``: whether it has not ended.
    """

    cell: Cell
    state: str
    left: int
    injected: int = 0
    worker: str = ""
    pid: int = 0
    alive: bool = False


class Lane:
    """Runs one cell. ``stop``: set when the run is interrupted."""

    def __init__(
        self, run: CellRun, stop: threading.Event, progress: Callable[[Progress], None], main_thread: MainThread
    ) -> None:
        self.name = run.name
        self._run = run
        self._stop = stop
        self._progress = progress
        self._main_thread = main_thread
        self._shown = Progress(run.cell, "waiting", left=run.cell.tasks)

    def run(self) -> CellEnd:
        """Run the cell and return its end, which the caller completes and passes to ``record_end``.

        Raises Stop when the run is interrupted; EnvironmentNotReady and broker errors when infrastructure fails.
        """
        run, cell = self._run, self._run.cell
        started = time.monotonic()
        nemesis = Nemesis(
            run.environment.socket_dir / f"{uuid.uuid4().hex[:8]}.sock",
            cell.fault,
            run.aimed,
            on_fault=run.record_fault,
            on_ready=self._worker_is_ready,
            precondition=self._unmet if cell.early else None,
            pause_seconds=timing.pause(cell),
            disturbance=run.proxy or run.clock,
            what=cell.fault_name,
        )
        workers = Workers(run, nemesis)
        publisher = Publisher(run, workers, self._stop)
        unaimed = UnaimedFaults(run, self._main_thread)

        def show(left: int) -> None:
            self._show(left=left, injected=nemesis.injected, **workers.current())

        load = Load(run, nemesis, workers, self._stop, show)
        try:
            unaimed.inject()
            with publisher.relaying():
                workers.start()
                self._show(state="running", **workers.current())
                load.start()
                publisher.publish(nemesis.report, load)
                load.finish()
                unaimed.inject_once(nemesis, workers, self._stop)
                reason = drain(
                    workers,
                    run.broker,
                    unfinished=publisher.unfinished,
                    deadline=started + timing.time_limit(cell),
                    stop=self._stop,
                    progress=show,
                )
            unaimed.report(nemesis)
        finally:
            nemesis.close()
            unaimed.remove()
        self._show(state="reading the books", injected=nemesis.injected, **workers.current())
        held, exited = left_over(run.broker, self._stop), workers.exited.is_set()
        return CellEnd(
            queued=held.queued,
            unacked=held.unacked,
            outbox=publisher.unfinished(),
            running=0 if exited else timing.concurrency(cell),
            workers=0 if exited else 1,
            published=publisher.confirmed,
            planned_kills=timing.planned_faults(cell),
            tasks=sum(len(job.task_ids) for job in run.jobs),
            seed=cell.seed,
            publisher=cell.publisher,
            clicks=cell.clicks,
            judged=cell.project_task.judged if cell.project_task else "books",
            load=cell.load,
            waiting_limit=timing.waiting_limit(cell),
            duration_s=round(time.monotonic() - started, 3),
            reason=reason or publisher.hostile.missing,
            semantics=cell.promise.semantics,
        )

    def record_end(self, end: CellEnd) -> None:
        """Record the last event of the cell."""
        self._run.record_end(end)
        self._show(state="unknown" if end.reason else "done")

    def clean(self) -> None:
        """Delete what the lane left in Redis and on the broker."""
        try:
            for space in (self._run.leases, self._run.broker):
                space.purge()
                space.close()
        finally:
            if self._run.proxy:
                self._run.proxy.close()
            if self._run.faulty_broker:
                self._run.faulty_broker.stop()

    def _worker_is_ready(self, pid: int) -> None:
        memory: dict[str, Any] = {"memory": own_memory(pid)} if self._run.cell.load else {}
        self._run.record_worker("ready", pid=pid, **memory)

    def _unmet(self, task_id: str, point: str) -> str:
        """What a fault at an early-acknowledged job still waits for, or ""."""
        if point in BY_MAIN - {Point.ACKING} or self._run.cell.fault.victim == "publisher":
            return ""
        kind, missing = Point.ACKED, "the message was not acknowledged"
        if point == Point.ACKING:
            kind = Point.EFFECT_DONE if self._run.cell.project_task is None else Point.RETURNED
            missing = "the body had no effect"
        return "" if Event.objects.filter(run=self.name, task_id=task_id, kind=kind).exists() else missing

    def _show(self, **changes: object) -> None:
        self._shown = replace(self._shown, **changes)  # type: ignore[arg-type]
        self._progress(self._shown)
