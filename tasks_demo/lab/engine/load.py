"""A cell under load: paces its publisher, and kills the main process of one of two workers at random moments meanwhile."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable

import psutil

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.lab.engine.cell_run import CellRun
from tasks_demo.lab.engine.workers import Workers
from tasks_demo.lab.plan.timing import LOAD_QUEUED
from tasks_demo.lab.processes.fault_report import FaultReport
from tasks_demo.lab.processes.nemesis import Nemesis

#: The moment of a kill is drawn from as many seconds after it is due.
_AT_RANDOM = 0.05
#: After how many jobs the queue is looked at, and how often while it is full, seconds.
_LOOK_EVERY, _POLL_SECONDS = 20, 0.02
#: Maximum time for a worker to consume, and for the queue to shrink, on a busy machine, seconds.
_READY_SECONDS, _SHRINK_SECONDS = 60.0, 120.0


class Load:
    """Does nothing in other cells. A worker that was killed is started again; after the last kill one worker is left.

    Two workers, because only beside a living one it shows whether what that one holds is delivered again (decision 70).
    """

    def __init__(
        self, run: CellRun, nemesis: Nemesis, workers: Workers, stop: threading.Event, progress: Callable[[int], None]
    ) -> None:
        """``progress``: called with the number of jobs that are not done."""
        self._run = run
        self._nemesis = nemesis
        self._first, self._second = workers, Workers(run, nemesis, "v")
        self._stop = stop
        self._progress = progress
        self._chance = random.Random(f"{run.cell.seed}:{run.cell.name}")
        self._due = 0
        self._left = len(run.cell.victims) if run.cell.load else 0
        self._began = 0.0

    def start(self) -> None:
        """Start the second worker, and wait until both consume."""
        if not self._run.cell.load:
            return
        self._second.start()
        self._until_ready()
        self._began = time.monotonic()

    def before(self, index: int, unpublished: Callable[[], int]) -> None:
        """Return when the job with this number may be published; kill a worker if one is due.

        ``unpublished``: counts jobs that are on their way to the queue.
        """
        cell = self._run.cell
        if not cell.load:
            return
        if index % _LOOK_EVERY == 0:
            self._until_it_shrinks(cell.tasks - index, unpublished)
        if (early := self._began + index / cell.load - time.monotonic()) > 0:
            self._stop.wait(early)
        self._due += index in cell.victims
        if self._due and self._left > 1 and self._both_ready():
            self._due -= 1
            self._kill(self._chance.choice((self._first, self._second)))

    def finish(self) -> None:
        """Kill what is still due, and at last the second worker, whose jobs the first one takes over."""
        while self._left and not self._stop.is_set():
            self._until_ready()
            self._kill(self._second)

    def _kill(self, victim: Workers) -> None:
        self._stop.wait(self._chance.uniform(0, _AT_RANDOM))
        self._left -= 1
        name, pid, memory = victim.name, victim.pid, own_memory(victim.pid)
        why = self._nemesis.kill_now(pid)
        held = self._run.broker.holdings(name)
        if not why and not held.queued + held.unacked:
            why = "nothing was in flight"
        report = FaultReport(
            what=str(self._run.cell.fault), victim="main", injected=not why, why=why, pid=pid, main_pid=pid,
            died="SIGKILL", worker=name, queued=held.queued, unacked=held.unacked, memory=memory,
        )  # fmt: skip
        self._nemesis.report("", report)
        victim.exited.wait(_READY_SECONDS)
        if self._left and victim.exited.is_set():
            victim.start()

    def _both_ready(self) -> bool:
        """Start a worker that has ended by itself, as a supervisor does; return whether both consume."""
        both = (self._first, self._second)
        for workers in both:
            if workers.exited.is_set():
                workers.start()
        return all(workers.pid in self._nemesis.ready for workers in both)

    def _until_it_shrinks(self, to_come: int, unpublished: Callable[[], int]) -> None:
        deadline = time.monotonic() + _SHRINK_SECONDS
        while True:
            waiting = self._run.broker.holdings(self._first.name).queued + unpublished()
            self._progress(to_come + waiting)
            if waiting <= LOAD_QUEUED or not self._goes_on(deadline, "The jobs of the lab are not done"):
                return

    def _until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not self._both_ready() and self._goes_on(deadline, "The workers of the lab do not consume"):
            pass

    def _goes_on(self, deadline: float, what: str) -> bool:
        """Wait for a moment; return False when the run is being interrupted."""
        if time.monotonic() > deadline:
            raise EnvironmentNotReady(f"{what}.")
        self._both_ready()
        return not self._stop.wait(_POLL_SECONDS)


def own_memory(pid: int) -> int | None:
    """Bytes of memory that this process shares with no other; None if it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(psutil.Process(pid).memory_full_info().uss)
    return None
