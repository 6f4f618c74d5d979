"""Starts real workers for the benchmark: forked from the lab's template or cold, on an embedded Redis and SQLite."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tasks_demo.benchmark import jobs
from tasks_demo.benchmark.publishing import Arm, transport
from tasks_demo.core import lifecycle
from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.core.lifecycle import Point
from tasks_demo.demo.stack.processes import Process, project_environment, spawn
from tasks_demo.demo.stack.redis import EmbeddedRedis
from tasks_demo.demo.stack.server import tail
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.processes.brokers import RedisLane
from tasks_demo.lab.processes.fault_report import FaultReport
from tasks_demo.lab.processes.nemesis import Nemesis
from tasks_demo.lab.processes.specs import WorkerSpec
from tasks_demo.lab.processes.template import TemplateClient
from tasks_demo.lab.processes.worker import command_line
from tasks_demo.ledger.recorder import recorder

CONCURRENCY = 2
#: The environment variable that names the settings module of the measured project.
PROJECT = "BENCHMARK_PROJECT_SETTINGS"
#: Maximum time to wait for a worker to start, to end, or to run a task, seconds.
WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Started:
    """A worker: when it became ready (monotonic), and the CPU time used until then (main, pool; seconds)."""

    pid: int
    ready_at: float = 0.0
    used: tuple[float, float] = (0.0, 0.0)


@dataclass
class Bench:
    """Redis and the worker template. ``folder`` contains logs, sockets and Redis's data. Create it with ``bench``."""

    folder: Path
    redis: EmbeddedRedis
    template: TemplateClient

    @property
    def log(self) -> Path:
        """The log of all forked workers."""
        return self.folder / "workers.log"

    @contextlib.contextmanager
    def lane(self, prefix: str | None = None, kind: type[RedisLane] = RedisLane) -> Iterator[RedisLane]:
        """Yield a lane with its own key prefix. Its keys are deleted at the end."""
        lane = kind(self.redis.url, f"bench:{uuid.uuid4().hex[:8]}:" if prefix is None else prefix)
        try:
            yield lane
        finally:
            lane.purge()
            lane.client.close()

    @contextlib.contextmanager
    def worker(
        self,
        arm: Arm,
        lane: RedisLane,
        *,
        wait: bool = True,
        concurrency: int = CONCURRENCY,
        victims: dict[str, Point] | None = None,
        on_fault: Callable[[str, FaultReport], None] = lambda *_: None,
    ) -> Iterator[Started]:
        """Run a worker forked from the template; yields, with ``wait``, when it is ready.

        Kills it at the end, because a warm shutdown takes 1.5 s: wait inside the block until its jobs are done.

        ``victims``: task ID → the point at which its pool process is killed; ``on_fault`` gets the report. Raises
        EnvironmentNotReady if the worker does not start or end within WAIT_SECONDS.
        """
        ready, exited = threading.Event(), threading.Event()
        ready_at = [0.0]

        def on_ready(_pid: int) -> None:
            ready_at[0] = time.monotonic()
            ready.set()

        nemesis = Nemesis(
            self.folder / f"{uuid.uuid4().hex[:8]}.sock",
            Fault.KILL_CHILD if victims else Fault.NONE,
            victims or {},
            on_fault=on_fault,
            on_ready=on_ready,
        )
        try:
            spec = WorkerSpec(
                name=f"{arm.name}@bench",
                socket=nemesis.address,
                victims={task_id: str(point) for task_id, point in (victims or {}).items()},
                log=str(self.log),
                broker_url=lane.broker_url,
                transport_options=transport(lane),
                concurrency=concurrency,
                redis_url=self.redis.url,
                key_prefix=lane.prefix,
                lease_seconds=30.0,
                imports=[jobs.__name__],
                conf=arm.conf,
                ledger=arm.ledger,
                write_through=False,
            )
            pid = self.template.fork(spec, lambda _status: exited.set())
            nemesis.mains.add(pid)
            try:
                if wait and not ready.wait(WAIT_SECONDS):
                    raise self.not_ready("A worker was not ready")
                yield Started(pid, ready_at[0], cpu_seconds(pid)) if wait else Started(pid)
            except KeyboardInterrupt:
                exited.set()  # closing the template kills its workers
                raise
            finally:
                if not exited.is_set():
                    self.template.kill(pid)
                    if not exited.wait(WAIT_SECONDS):
                        raise self.not_ready("A worker did not end")
        finally:
            nemesis.close()

    @contextlib.contextmanager
    def cold_worker(self) -> Iterator[Process]:
        """Run a worker started with ``celery -A PROJECT worker``, without a ledger."""
        project = os.environ[PROJECT]
        command = [sys.executable, "-m", "celery", "-A", project.rpartition(".")[0]]
        command += [*command_line("cold@bench", CONCURRENCY), "-I", jobs.__name__]
        environment = {**project_environment(), "DJANGO_SETTINGS_MODULE": project}
        environment |= {"REDIS_URL": self.redis.url, "TASKS_DEMO_LEDGER": "0"}
        process = spawn(command, log=self.log, env=environment)
        try:
            yield process
        finally:
            process.stop()

    def pushed(self, lane: RedisLane, key: str) -> str:
        """Wait for a task to push to the list ``key``. Returns what it pushed. Raises EnvironmentNotReady."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            # BLPOP returns when the task pushes. Its timeout is below the client's own.
            if answer := lane.client.blpop([key], timeout=2):
                value = answer[1]
                return value if isinstance(value, str) else value.decode()
        raise self.not_ready("A worker did not run a task")

    def not_ready(self, what: str) -> EnvironmentNotReady:
        """Return the error for an event that did not happen in time, with the end of the workers' log."""
        return EnvironmentNotReady(f"{what} within {WAIT_SECONDS:g} s. The end of its log:\n{tail(self.log)}")


@contextlib.contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """Start Redis and the worker template, and stop them at the end. Call it from the main thread."""
    lifecycle.ignore(recorder)  # this process publishes, and only the arm with the ledger must pay for it
    with contextlib.ExitStack() as stack:
        template = TemplateClient(folder / "template.log")
        stack.callback(template.close)
        redis = stack.enter_context(EmbeddedRedis(folder / "redis"))
        template.wait_ready()
        yield Bench(folder, redis, template)


def cpu_seconds(pid: int) -> tuple[float, float]:
    """Return the CPU time that a worker's main process and its pool have used, seconds, to the nanosecond.

    The times in /proc/PID/stat have steps of 10 ms: a short measurement would be 0, and no ratio.
    """
    pool = [child.pid for child in psutil.Process(pid).children()]
    used = [time.clock_gettime(_cpu_clock(each)) for each in (pid, *pool)]
    return used[0], sum(used[1:])


def _cpu_clock(pid: int) -> int:
    """The CPU clock of a process, as by clock_getcpuclockid(3) on Linux: Python gives only those of its own threads."""
    return (~pid << 3) | 2
