"""Real workers for the benchmark: forked from the lab's template or started cold, on an embedded Redis and SQLite."""

from __future__ import annotations

import contextlib
import os
import random
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from statistics import median

import psutil

from tasks_demo import outbox
from tasks_demo.benchmark import jobs as benchmark_tasks
from tasks_demo.benchmark.jobs import say_when
from tasks_demo.benchmark.publishing import Arm, Publisher, before, meanwhile, producer, relaying, transport
from tasks_demo.core import lifecycle
from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.core.lifecycle import Point
from tasks_demo.demo.stack.processes import project_environment, spawn
from tasks_demo.demo.stack.redis import EmbeddedRedis
from tasks_demo.demo.stack.server import tail
from tasks_demo.hooks.bootsteps import NoticeChildDeath
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.processes.brokers import RedisLane
from tasks_demo.lab.processes.nemesis import FaultReport, Nemesis
from tasks_demo.lab.processes.specs import WorkerSpec
from tasks_demo.lab.processes.template import TemplateClient
from tasks_demo.ledger.recorder import recorder

CONCURRENCY = 2
TASKS_MODULE = benchmark_tasks.__name__
#: Names the settings module of the project that is measured.
PROJECT = "BENCHMARK_PROJECT_SETTINGS"
#: Bound on a worker's start and on its end, seconds.
PATIENCE = 60.0
#: How often the broker is asked whether it is empty, seconds: well below the time of a round.
POLL = 0.01
#: How often a relay looks by default, seconds.
RELAY_INTERVAL = 0.5
#: A line of a worker's log for a body that ran; one that was suppressed has the result None.
_RAN = re.compile(rb"\[([0-9a-f-]{36})\] succeeded in [0-9.e-]+s: [0-9]+$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Throughput:
    """One round of one arm, per task. ``round_trips`` counts the lock scripts that Redis ran, renewals included. The
    processor time (milliseconds, of the main process and of its pool) says more than the speed while others use the machine.
    """

    per_second: float
    round_trips: float
    cpu_main_ms: float
    cpu_pool_ms: float


@dataclass(frozen=True, slots=True)
class Started:
    """A worker: when it was ready (monotonic), and the processor time it had used until then (main, pool; seconds)."""

    pid: int
    ready_at: float = 0.0
    used: tuple[float, float] = (0.0, 0.0)


@dataclass
class Bench:
    """What the rounds run on: ``folder`` holds logs, the socket and Redis's data. Use ``prepared``."""

    folder: Path
    redis: EmbeddedRedis
    template: TemplateClient

    def throughput(self, arm: Arm, count: int) -> Throughput:
        """Have a worker do ``count`` tasks, and time it until neither broker nor publisher holds any.

        The time begins when the worker is ready, or when the first job is handed over, if that is later. With early
        acknowledgement it ends a little too soon: the last bodies, one for each pool process, may still be running. Raises
        EnvironmentNotReady when they are not done within a bound, or when not every body ran.
        """
        lane = RedisLane(self.redis.url, f"bench:{uuid.uuid4().hex[:8]}:")
        try:
            before(arm, lane, count)
            lane.client.config_resetstat()
            logged = self._log.stat().st_size if self._log.exists() else 0
            with self._worker(arm, lane) as worker:
                began_at = worker.ready_at if arm.publisher is Publisher.BEFORE else time.monotonic()
                with meanwhile(arm, lane, count) as more:
                    ended_at = _emptied(lane, more, time.monotonic() + PATIENCE + count / 20, self._log)
                main, pool = (used - then for used, then in zip(_processor(worker.pid), worker.used, strict=True))
            self._check_ran(arm, count, logged)
            stats = lane.client.info("commandstats")
            scripts = sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("evalsha", "eval"))
            return Throughput(count / (ended_at - began_at), scripts / count, main / count * 1000, pool / count * 1000)
        finally:
            lane.purge()
            lane.client.close()

    def latencies(self, jobs: int, seed: int) -> tuple[float, float]:
        """Milliseconds from handing a job over until its body starts, with nothing else to do: the median of ``jobs``
        jobs through the outbox and its relay, and of as many that were published directly.

        The two take turns. Each is handed over at another moment of the relay's interval: one after the other without
        that, they would all come just after the relay has looked, and wait for the whole of it.
        """
        lane = RedisLane(self.redis.url, f"bench:{uuid.uuid4().hex[:8]}:")
        through_outbox, direct, pause = [], [], threading.Event()
        try:
            with self._worker(Arm("latency", benchmark_tasks.say_when), lane), relaying(lane), producer(lane) as sender:
                for number, moment in enumerate([0.0, *_spread(jobs, RELAY_INTERVAL, seed)]):
                    pause.wait(moment)  # the job's own moment, not a wait for something
                    waited = self._wait_of(lane, lambda key: outbox.enqueue(say_when, (key,), ignore_result=True))
                    pause.wait(moment)
                    at_once = self._wait_of(
                        lane, lambda key: say_when.apply_async((key,), producer=sender, ignore_result=True, retry=False)
                    )
                    if number:  # the first of each opened connections
                        through_outbox.append(waited)
                        direct.append(at_once)
            return median(through_outbox), median(direct)
        finally:
            lane.purge()
            lane.client.close()

    def recoveries(self, deaths: int) -> list[float]:
        """Seconds from the SIGKILL of the only pool process until its job starts again, once for each kill that landed.

        One job at a time: kombu puts a rejected message at the end of its queue, and waiting behind others is not what is asked
        here. Half of them are killed before the body, half after it. The time begins when the process is seen to be
        dead, a moment after the signal.
        """
        lane = RedisLane(self.redis.url, f"bench:{uuid.uuid4().hex[:8]}:")
        victims = {str(uuid.uuid4()): (Point.STARTED, Point.RETURNED)[number % 2] for number in range(deaths)}
        killed: Queue[tuple[float, FaultReport]] = Queue()
        seconds, pause = [], threading.Event()
        arm = Arm("recovery", say_when)
        on_fault = lambda _, report: killed.put((_now(), report))  # noqa: E731
        try:
            with self._worker(arm, lane, concurrency=1, victims=victims, on_fault=on_fault), producer(lane) as sender:
                moments = _spread(deaths, NoticeChildDeath.interval, seed=0)
                for (task_id, point), moment in zip(victims.items(), moments, strict=True):
                    pause.wait(moment)  # after the worker's look at its pool, which the death before had to wait for
                    key = f"{lane.prefix}when:{task_id}"
                    say_when.apply_async((key,), task_id=task_id, producer=sender, ignore_result=True, retry=False)
                    try:
                        died_at, report = killed.get(timeout=PATIENCE)
                    except Empty:
                        raise EnvironmentNotReady(
                            f"A worker's job was not reached by its killer within {PATIENCE:g} s."
                        ) from None
                    if report.landed:
                        if point is Point.RETURNED:
                            _pushed(lane, key, self._log)  # by the one that died
                        seconds.append(float(_pushed(lane, key, self._log)) - died_at)
            return seconds
        finally:
            lane.purge()
            lane.client.close()

    def _wait_of(self, lane: RedisLane, hand_over: Callable[[str], object]) -> float:
        key = f"{lane.prefix}when:{uuid.uuid4().hex[:8]}"
        began = _now()
        hand_over(key)
        return (float(_pushed(lane, key, self._log)) - began) * 1000

    def forked_start(self) -> float:
        """Seconds from asking the template for a worker until its first task is done."""
        lane = RedisLane(self.redis.url, f"bench:{uuid.uuid4().hex[:8]}:")
        arm = Arm("start", benchmark_tasks.signal_done)
        try:
            done = self._publish_signal(lane)
            asked = time.monotonic()
            with self._worker(arm, lane, wait=False):
                _pushed(lane, done, self._log)
                return time.monotonic() - asked
        finally:
            lane.purge()
            lane.client.close()

    def cold_start(self) -> float:
        """Seconds from starting ``celery -A project worker`` until its first task is done."""
        lane = RedisLane(self.redis.url, "")
        try:
            done = self._publish_signal(lane)
            command = [
                sys.executable,
                "-m",
                "celery",
                "-A",
                os.environ[PROJECT].rpartition(".")[0],
                "worker",
                "-I",
                TASKS_MODULE,
                *_options("cold@bench"),
            ]
            environment = {
                **project_environment(),
                "DJANGO_SETTINGS_MODULE": os.environ[PROJECT],
                "REDIS_URL": self.redis.url,
                "TASKS_DEMO_LEDGER": "0",
            }
            log = self.folder / "cold.log"
            asked = time.monotonic()
            process = spawn(command, log=log, env=environment)
            try:
                _pushed(lane, done, log)
                return time.monotonic() - asked
            finally:
                process.stop()
        finally:
            lane.purge()
            lane.client.close()

    @property
    def _log(self) -> Path:
        return self.folder / "workers.log"

    def _check_ran(self, arm: Arm, count: int, logged: int) -> None:
        """Whether every body ran; what was deferred, suppressed or parked instead is no throughput."""
        with self._log.open("rb") as log:
            log.seek(logged)
            ran = len(set(_RAN.findall(log.read())))
        if ran != count:
            raise EnvironmentNotReady(
                f"{ran} of {count} bodies ran under {arm.name}, so the time is worth nothing. The end of the log:\n"
                f"{tail(self._log)}"
            )

    def _publish_signal(self, lane: RedisLane) -> str:
        key = f"{lane.prefix}done:{uuid.uuid4().hex[:8]}"
        with producer(lane) as sender:
            benchmark_tasks.signal_done.apply_async((key,), producer=sender, ignore_result=True, retry=False)
        return key

    @contextlib.contextmanager
    def _worker(
        self,
        arm: Arm,
        lane: RedisLane,
        *,
        wait: bool = True,
        concurrency: int = CONCURRENCY,
        victims: dict[str, Point] | None = None,
        on_fault: Callable[[str, FaultReport], None] = lambda *_: None,
    ) -> Iterator[Started]:
        """A worker forked from the template, ended warm afterwards; with ``wait`` yields when it is ready.

        ``victims``: the jobs, by task ID, whose pool process is killed, and at which point; then ``on_fault`` is called.
        """
        ready, exited = threading.Event(), threading.Event()
        seen = [0.0]

        def on_ready(_pid: int) -> None:
            seen[0] = time.monotonic()
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
                log=str(self._log),
                broker_url=lane.broker_url,
                transport_options=transport(lane),
                concurrency=concurrency,
                redis_url=self.redis.url,
                key_prefix=lane.prefix,
                lease_seconds=30.0,
                imports=[TASKS_MODULE],
                conf=arm.conf,
                ledger=arm.ledger,
                write_through=False,
            )
            pid = self.template.fork(spec, lambda _status: exited.set())
            nemesis.mains.add(pid)
            try:
                if wait and not ready.wait(PATIENCE):
                    raise EnvironmentNotReady(
                        f"A worker was not ready within {PATIENCE:g} s. Its log:\n{tail(self._log)}"
                    )
                yield Started(pid, seen[0], _processor(pid)) if wait else Started(pid)
            except KeyboardInterrupt:
                raise  # a warm shutdown with jobs in hand may hang; closing the template kills its workers
            except BaseException:
                self._end(pid, exited, ready)
                raise
            self._end(pid, exited, ready)
        finally:
            nemesis.close()

    def _end(self, pid: int, exited: threading.Event, ready: threading.Event) -> None:
        # SIGTERM before the worker has installed its handlers would be a crash: ready comes first, or the patience ends.
        ready.wait(PATIENCE)
        self.template.terminate(pid)
        if not exited.wait(PATIENCE):
            raise EnvironmentNotReady(f"A worker did not end within {PATIENCE:g} s. Its log:\n{tail(self._log)}")


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[Bench]:
    """Bring Redis and the worker template up, and down again whatever happens. Call from the main thread."""
    lifecycle.ignore(recorder)  # this process publishes; only the arm with the ledger is to pay for it
    with contextlib.ExitStack() as stack:
        template = TemplateClient(folder / "template.log")
        stack.callback(template.close)
        redis = stack.enter_context(EmbeddedRedis(folder / "redis"))
        template.wait_ready()
        yield Bench(folder, redis, template)


def _now() -> float:
    """The clock of ``say_when``."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def _spread(count: int, seconds: float, seed: int) -> list[float]:
    """Moments evenly spread over so many seconds, in an order that the seed decides."""
    moments = [(number + 0.5) / count * seconds for number in range(count)]
    random.Random(seed).shuffle(moments)
    return moments


def _processor(pid: int) -> tuple[float, float]:
    """Processor time of a worker's main process and of its pool until now, seconds."""
    main = psutil.Process(pid)
    times = [process.cpu_times() for process in (main, *main.children())]
    used = [time.user + time.system for time in times]
    return used[0], sum(used[1:])


def _options(name: str) -> list[str]:
    return [
        "--pool=prefork",
        f"--concurrency={CONCURRENCY}",
        f"--hostname={name}",
        "--loglevel=INFO",
        "--without-mingle",
        "--without-gossip",
        "--without-heartbeat",
    ]


def _emptied(lane: RedisLane, more: Callable[[], bool], deadline: float, log: Path) -> float:
    """When all was done: nothing in the broker, none in the worker's hands, no ``more`` to come."""
    pause = threading.Event()
    while time.monotonic() < deadline:
        coming, held = more(), lane.holdings()
        if not (coming or held.queued or held.unacked or held.fetching):
            return time.monotonic()
        pause.wait(POLL)
    raise EnvironmentNotReady(
        f"A worker did not get through its tasks in time: {held.queued} queued, {held.unacked} unacknowledged. "
        f"The end of its log:\n{tail(log)}"
    )


def _pushed(lane: RedisLane, key: str, log: Path) -> str:
    """What a task pushed to the list, as soon as it is there."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        # Redis answers at the moment of the push; the bound stays below the client's own timeout.
        if answer := lane.client.blpop([key], timeout=2):
            value = answer[1]
            return value if isinstance(value, str) else value.decode()
    raise EnvironmentNotReady(f"A worker did not run a task within {PATIENCE:g} s. Its log:\n{tail(log)}")
