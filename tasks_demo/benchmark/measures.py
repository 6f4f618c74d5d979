"""Measures a worker's throughput, latency, recovery after a kill, and start."""

from __future__ import annotations

import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, Queue
from statistics import median
from typing import Any

from tasks_demo import outbox
from tasks_demo.benchmark.jobs import push_start_time, signal_done
from tasks_demo.benchmark.publishing import Arm, Publisher, before, meanwhile, producer, relaying
from tasks_demo.benchmark.workers import WAIT_SECONDS, Bench, cpu_seconds
from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.core.lifecycle import Point
from tasks_demo.demo.stack.server import tail
from tasks_demo.hooks.bootsteps import NoticeChildDeath
from tasks_demo.lab.processes.brokers import RedisLane
from tasks_demo.lab.processes.fault_report import FaultReport

#: Default interval of a relay, seconds.
RELAY_INTERVAL = 0.5
#: Maximum time from the last acknowledgement to the end of the last body, seconds.
FINISH_SECONDS = 5.0
#: How long an idle worker is observed, seconds.
IDLE_SECONDS = 2.0
#: Interval for checking whether the broker is empty, seconds; well below the duration of a round.
_POLL_SECONDS = 0.01
#: A worker's log line for a body that ran. A suppressed delivery has the result None.
_RAN = re.compile(rb"\[([0-9a-f-]{36})\] succeeded in [0-9.e-]+s: [0-9]+$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Throughput:
    """One round of one arm, per task. ``round_trips``: lease scripts that Redis ran, including renewals. ``cpu_main_ms`` and
    ``cpu_pool_ms``: CPU time of the main process and of its pool, which varies less than the speed if the machine is busy.
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
    with bench.lane(kind=arm.lane) as lane:
        before(arm, lane, count)
        lane.client.config_resetstat()
        logged = bench.log.stat().st_size if bench.log.exists() else 0
        with bench.worker(arm, lane) as worker:
            started_at = worker.ready_at if arm.publisher is Publisher.BEFORE else time.monotonic()
            with meanwhile(arm, lane, count) as more:
                ended_at = _emptied(bench, lane, more, time.monotonic() + WAIT_SECONDS + count / 20)
            main, pool = (used - then for used, then in zip(cpu_seconds(worker.pid), worker.used, strict=True))
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
    arm = Arm("latency", push_start_time)
    with bench.lane() as lane, bench.worker(arm, lane), relaying(lane), producer(lane) as sender:
        by_relay = Publication(lane, lambda key: outbox.enqueue(push_start_time, (key,), ignore_result=True))
        through_outbox, direct = starts(bench, [by_relay, directly(lane, sender)], jobs, seed)
    return through_outbox, direct


@dataclass(frozen=True, slots=True)
class Publication:
    """How a job that pushes its start to ``key`` is published on a lane."""

    lane: RedisLane
    publish: Callable[[str], object]


def directly(lane: RedisLane, sender: Any) -> Publication:
    """Return the publication by this kombu producer."""
    return Publication(
        lane, lambda key: push_start_time.apply_async((key,), producer=sender, ignore_result=True, retry=False)
    )


def starts(bench: Bench, kinds: Sequence[Publication], jobs: int, seed: int) -> list[float]:
    """Measure the milliseconds from publication to start of one job at a time, the kinds in turn. Returns a median for each."""
    found: list[list[float]] = [[] for _ in kinds]
    pause = threading.Event()
    for number, moment in enumerate([0.0, *_spread(jobs, RELAY_INTERVAL, seed)]):
        for kind, seen in zip(kinds, found, strict=True):
            pause.wait(moment)  # sets the publication time; does not wait for an event
            key = f"{kind.lane.prefix}start:{uuid.uuid4().hex[:8]}"
            published_at = _now()
            kind.publish(key)
            took = (float(bench.pushed(kind.lane, key)) - published_at) * 1000
            if number:  # the first job of each kind opened connections
                seen.append(took)
    return [median(seen) for seen in found]


def published_per_second(bench: Bench, arm: Arm, count: int) -> float:
    """Measure how many jobs a second one producer publishes one by one, with no worker."""
    with bench.lane(kind=arm.lane) as lane:
        before(arm, lane, 1)  # what this process does once
        began = time.monotonic()
        before(arm, lane, count)
        return count / (time.monotonic() - began)


def commands_per_second(bench: Bench, arm: Arm) -> float:
    """Measure the commands that one idle worker sends to Redis in a second, over IDLE_SECONDS. A script counts once."""
    with bench.lane(kind=arm.lane) as lane, bench.worker(arm, lane):
        _emptied(bench, lane, lambda: False, time.monotonic() + WAIT_SECONDS)
        with lane.client.monitor() as seen:  # type: ignore[no-untyped-call]
            count, began = 0, time.monotonic()
            while (now := time.monotonic()) < began + IDLE_SECONDS:
                count += seen.next_command()["client_type"] != "lua"
        return count / (now - began)


def recoveries(bench: Bench, deaths: int) -> list[float]:
    """Measure the seconds from the SIGKILL of the only pool process to the restart of its job, for each injected kill.

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
            if report.injected:
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
            f"{ran} of {count} bodies ran under {arm.name}, so its time is not a throughput. "
            f"The end of the log:\n{tail(bench.log)}"
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
        held = lane.holdings("")
        # What is still unpublished is asked only when the broker is empty: asking a database costs time that is measured.
        if not (held.queued or held.unacked or held.moving or more()):
            held = lane.holdings("")  # published meanwhile?
            if not (held.queued or held.unacked or held.moving):
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
