"""Measures a worker's throughput, latency, recovery from a kill, and start."""

from __future__ import annotations

import random
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, Queue
from statistics import median

from tasks_demo import outbox
from tasks_demo.benchmark.jobs import push_start_time, signal_done
from tasks_demo.benchmark.publishing import Arm, Publisher, before, meanwhile, producer, relaying
from tasks_demo.benchmark.workers import WAIT_SECONDS, Bench, processor_seconds
from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.core.lifecycle import Point
from tasks_demo.demo.stack.server import tail
from tasks_demo.hooks.bootsteps import NoticeChildDeath
from tasks_demo.lab.processes.brokers import RedisLane
from tasks_demo.lab.processes.nemesis import FaultReport

#: Default interval of a relay, seconds.
RELAY_INTERVAL = 0.5
#: Maximum time from the last acknowledgement to the end of the last body, seconds.
FINISH_SECONDS = 5.0
#: Interval for checking whether the broker is empty, seconds; well below the duration of a round.
_POLL_SECONDS = 0.01
#: A worker's log line for a body that ran. A suppressed delivery has the result None.
_RAN = re.compile(rb"\[([0-9a-f-]{36})\] succeeded in [0-9.e-]+s: [0-9]+$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Throughput:
    """One round of one arm, per task. ``round_trips``: lock scripts that Redis ran, including renewals. ``cpu_main_ms`` and
    ``cpu_pool_ms``: processor time of the main process and of its pool; it varies less than the speed if the machine is busy.
    """

    per_second: float
    round_trips: float
    cpu_main_ms: float
    cpu_pool_ms: float


def throughput(bench: Bench, arm: Arm, count: int) -> Throughput:
    """Measure a worker's throughput for ``count`` tasks, until none is unpublished, queued or unacknowledged.

    The clock starts when the worker is ready, or when the first job is published if that is later. With early acknowledgement
    it stops slightly too soon: the last body of each pool process may still be running. Raises EnvironmentNotReady if the tasks
    are not done within WAIT_SECONDS + count / 20 seconds, or if not every body ran.
    """
    with bench.lane() as lane:
        before(arm, lane, count)
        lane.client.config_resetstat()
        logged = bench.log.stat().st_size if bench.log.exists() else 0
        with bench.worker(arm, lane) as worker:
            started_at = worker.ready_at if arm.publisher is Publisher.BEFORE else time.monotonic()
            with meanwhile(arm, lane, count) as more:
                ended_at = _emptied(bench, lane, more, time.monotonic() + WAIT_SECONDS + count / 20)
            main, pool = (used - then for used, then in zip(processor_seconds(worker.pid), worker.used, strict=True))
            _check_ran(bench, arm, count, logged)
        stats = lane.client.info("commandstats")
        scripts = sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("evalsha", "eval"))
        return Throughput(count / (ended_at - started_at), scripts / count, main / count * 1000, pool / count * 1000)


def latencies(bench: Bench, jobs: int, seed: int) -> tuple[float, float]:
    """Measure the milliseconds from publishing a job to the start of its body on an idle worker.

    Returns two medians: of ``jobs`` jobs through the outbox and its relay, and of as many jobs published directly. The two kinds
    take turns. Each job is published at a different time within the relay's interval; published back to back, every job would
    arrive just after the relay had polled and wait for the whole interval.
    """
    through_outbox, direct, pause = [], [], threading.Event()
    arm = Arm("latency", push_start_time)
    with bench.lane() as lane, bench.worker(arm, lane), relaying(lane), producer(lane) as sender:

        def waited(publish: Callable[[str], object]) -> float:
            key = f"{lane.prefix}start:{uuid.uuid4().hex[:8]}"
            published_at = _now()
            publish(key)
            return (float(bench.pushed(lane, key)) - published_at) * 1000

        for number, moment in enumerate([0.0, *_spread(jobs, RELAY_INTERVAL, seed)]):
            pause.wait(moment)  # sets the publication time; does not wait for an event
            by_relay = waited(lambda key: outbox.enqueue(push_start_time, (key,), ignore_result=True))
            pause.wait(moment)
            at_once = waited(
                lambda key: push_start_time.apply_async((key,), producer=sender, ignore_result=True, retry=False)
            )
            if number:  # the first job of each kind opened connections
                through_outbox.append(by_relay)
                direct.append(at_once)
    return median(through_outbox), median(direct)


def recoveries(bench: Bench, deaths: int) -> list[float]:
    """Measure the seconds from the SIGKILL of the only pool process to the restart of its job, for each kill that landed.

    Half of the jobs are killed before the body, half after it. The clock starts when the process is seen dead. Only one job runs
    at a time: kombu puts a rejected message at the end of its queue, and the wait behind other jobs is not measured.
    """
    victims = {str(uuid.uuid4()): (Point.STARTED, Point.RETURNED)[number % 2] for number in range(deaths)}
    killed: Queue[tuple[float, FaultReport]] = Queue()
    seconds, pause = [], threading.Event()
    arm = Arm("recovery", push_start_time)

    def on_fault(_task_id: str, report: FaultReport) -> None:
        killed.put((_now(), report))

    with (
        bench.lane() as lane,
        bench.worker(arm, lane, concurrency=1, victims=victims, on_fault=on_fault),
        producer(lane) as sender,
    ):
        moments = _spread(deaths, NoticeChildDeath.interval, seed=0)
        for (task_id, point), moment in zip(victims.items(), moments, strict=True):
            pause.wait(moment)  # spread over the interval at which the worker checks its pool
            key = f"{lane.prefix}start:{task_id}"
            push_start_time.apply_async((key,), task_id=task_id, producer=sender, ignore_result=True, retry=False)
            try:
                died_at, report = killed.get(timeout=WAIT_SECONDS)
            except Empty:
                raise bench.not_ready("A victim did not reach its point") from None
            if report.landed:
                if point is Point.RETURNED:
                    bench.pushed(lane, key)  # pushed by the killed process
                seconds.append(float(bench.pushed(lane, key)) - died_at)
    return seconds


def forked_start(bench: Bench) -> float:
    """Measure the seconds from requesting a worker from the template to the end of its first task."""
    with bench.lane() as lane:
        done = _publish_signal(lane)
        asked = time.monotonic()
        with bench.worker(Arm("start", signal_done), lane, wait=False):
            bench.pushed(lane, done)
            return time.monotonic() - asked


def cold_start(bench: Bench) -> float:
    """Measure the seconds from starting ``celery worker`` to the end of its first task."""
    with bench.lane(prefix="") as lane:
        done = _publish_signal(lane)
        asked = time.monotonic()
        with bench.cold_worker():
            bench.pushed(lane, done)
            return time.monotonic() - asked


def _publish_signal(lane: RedisLane) -> str:
    key = f"{lane.prefix}done:{uuid.uuid4().hex[:8]}"
    with producer(lane) as sender:
        signal_done.apply_async((key,), producer=sender, ignore_result=True, retry=False)
    return key


def _check_ran(bench: Bench, arm: Arm, count: int, logged: int) -> None:
    """Raise EnvironmentNotReady unless every body ran: deferred, suppressed and parked jobs do not count as throughput."""
    pause, deadline = threading.Event(), time.monotonic() + FINISH_SECONDS
    while (ran := _ran(bench, logged)) < count and time.monotonic() < deadline:
        pause.wait(_POLL_SECONDS)  # with early acknowledgement the last bodies may still run
    if ran != count:
        raise EnvironmentNotReady(
            f"{ran} of {count} bodies ran under {arm.name}, so the time proves nothing. The end of the log:\n{tail(bench.log)}"
        )


def _ran(bench: Bench, logged: int) -> int:
    with bench.log.open("rb") as log:
        log.seek(logged)
        return len(set(_RAN.findall(log.read())))


def _emptied(bench: Bench, lane: RedisLane, more: Callable[[], bool], deadline: float) -> float:
    """Wait until no job is unpublished, queued, unacknowledged or held by the worker. Returns the time (monotonic).

    Raises EnvironmentNotReady at ``deadline``.
    """
    pause = threading.Event()
    while time.monotonic() < deadline:
        coming, held = more(), lane.holdings()
        if not (coming or held.queued or held.unacked or held.fetching):
            return time.monotonic()
        pause.wait(_POLL_SECONDS)
    raise EnvironmentNotReady(
        f"A worker did not finish its tasks in time: {held.queued} queued, {held.unacked} unacknowledged. "
        f"The end of its log:\n{tail(bench.log)}"
    )


def _now() -> float:
    """Return the time on the clock of ``push_start_time``."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def _spread(count: int, seconds: float, seed: int) -> list[float]:
    """Return ``count`` times spread evenly over ``seconds``, in an order determined by the seed."""
    moments = [(number + 0.5) / count * seconds for number in range(count)]
    random.Random(seed).shuffle(moments)
    return moments
