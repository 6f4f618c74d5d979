"""The parts of the benchmark, measured one after the other, and the document that they make."""

from __future__ import annotations

import os
import time
import timeit
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks_demo.benchmark import measures
from tasks_demo.benchmark.dashboard import dashboard
from tasks_demo.benchmark.figures import SCHEMA, Budget, Figure, Series, trade_off
from tasks_demo.benchmark.run import Sizes
from tasks_demo.benchmark.throughput import latency, throughput
from tasks_demo.benchmark.transport import transport
from tasks_demo.benchmark.watched import watched
from tasks_demo.benchmark.workers import Bench, bench
from tasks_demo.core import lifecycle
from tasks_demo.core.lifecycle import Point
from tasks_demo.lab.engine.runner import Run
from tasks_demo.lab.plan.cells import LANES, plan
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.reports.document import versions
from tasks_demo.ledger.events import FAULT
from tasks_demo.ledger.models import IN_A_RUN, Event


def measure(sizes: Sizes, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure, and return the result document. ``say`` is called with progress lines. Raises EnvironmentNotReady."""
    started = time.monotonic()
    figures: list[Figure] = []
    if {"start", "recovery", "throughput", "patterns", "latency", "transport", "watched"} & set(sizes.parts):
        say("bringing up Redis and the worker template")
        with bench(folder) as ready:
            if "start" in sizes.parts:
                figures += _start(ready, sizes.rounds, say)
            if "recovery" in sizes.parts:
                figures += _recovery(ready, sizes.deaths, say)
            figures += throughput(ready, sizes, say)
            if "latency" in sizes.parts:
                figures += latency(ready, sizes, say)
            if "transport" in sizes.parts:
                figures += transport(ready, sizes, say)
            if "watched" in sizes.parts:
                figures += watched(ready, sizes, say)
    if "kills" in sizes.parts:
        figures += _kills(sizes, say)
    if "point" in sizes.parts:
        figures += _point(max(sizes.rounds, 5))
    if "dashboard" in sizes.parts:
        figures += dashboard(sizes.task_ids, sizes.requests, say, as_it_is=sizes.as_it_is)
    return {
        "schema": SCHEMA,
        "versions": versions(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": os.getloadavg()[0],  # of the last minute, including the benchmark's own
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "rounds": sizes.rounds,
        "campaigns": sizes.campaigns,
        "tasks": sizes.tasks,
        "duration_s": round(time.monotonic() - started, 1),
        "jobs": sizes.jobs,
        "deaths": sizes.deaths,
        "task_ids": sizes.task_ids,
        "requests": sizes.requests,
        "figures": [figure.as_dict() for figure in figures],
        "trade_off": trade_off(figures),
    }


def _start(bench: Bench, rounds: int, say: Callable[[str], None]) -> list[Figure]:
    forked, cold = [], []
    for number in range(rounds):
        say(f"worker start, round {number + 1} of {rounds}")
        forked.append(measures.forked_start(bench))
        cold.append(measures.cold_start(bench))
    return [
        Figure(
            "worker_start",
            "Worker requested → first task done",
            Series("forked from the template", "s", tuple(forked)),
            Series("cold celery worker", "s", tuple(cold)),
            Budget("A ≤ 0.3 s on 2 cores", "a", most=0.3),
        )
    ]


def _kills(sizes: Sizes, say: Callable[[str], None]) -> list[Figure]:
    rates = []
    for number in range(sizes.campaigns):
        say(f"killing workers, campaign {number + 1} of {sizes.campaigns}")
        cells = plan(
            patterns=["acks_late"],
            faults=[Fault.KILL_MAIN],
            points=[Point.STARTED, Point.EFFECT_BEGUN, Point.EFFECT_DONE, Point.RETURNED],
            brokers=["redis"],
            seed=number,
            tasks=sizes.kills * 2,
            kills=sizes.kills,
            work_ms=0,
        )
        run = Run(cells, seed=number, broker="", lanes=LANES)
        outcome = run.execute()
        if outcome.interrupted:
            raise KeyboardInterrupt
        if outcome.failure is not None:
            raise outcome.failure
        ours = Event.objects.filter(IN_A_RUN, run__startswith=f"{run.run_id}:")
        injected = ours.filter(kind=FAULT, detail__landed=True).order_by("at")
        moments = [at.timestamp() for at in injected.values_list("at", flat=True)]
        # From the first kill to the last, because the time before and after does not depend on the number of kills.
        rates.append((len(moments) - 1) / (moments[-1] - moments[0]) if len(moments) > 1 else 0.0)
    return [
        Figure(
            "kills",
            f"Landed worker-main kills, {LANES} lanes, first to last of {len(cells) * sizes.kills}",
            Series("kills", "per s", tuple(rates)),
            budget=Budget("A ≥ 5 per s", "a", least=5.0),
        )
    ]


def _recovery(bench: Bench, deaths: int, say: Callable[[str], None]) -> list[Figure]:
    say(f"killing {deaths} pool processes")
    seconds = tuple(measures.recoveries(bench, deaths))
    return [
        Figure(
            "recovery",
            f"SIGKILL of a pool process → its job starts again; {len(seconds)} of {deaths} kills injected",
            Series("acks_late", "s", seconds, events=True) if seconds else None,
            budget=Budget("p99 of A ≤ 2 s", "p99", most=2.0),
            why_not="" if seconds else "no kill was injected",
        )
    ]


def _point(rounds: int) -> list[Figure]:
    loops = 200_000
    armed = lifecycle.observers()
    for observer in armed:
        lifecycle.ignore(observer)
    names = {"reached": lifecycle.reached, "nothing": _nothing, "point": lifecycle.Point.STARTED}
    point, empty = [], []
    try:
        for _ in range(rounds):
            point.append(timeit.timeit("reached(point)", globals=names, number=loops) / loops * 1e9)
            empty.append(timeit.timeit("nothing(point)", globals=names, number=loops) / loops * 1e9)
    finally:
        for observer in armed:
            lifecycle.observe(observer)
    return [
        Figure(
            "point",
            "A lifecycle point with no observer armed / a call of an empty function",
            Series("point", "ns", tuple(point)),
            Series("empty call", "ns", tuple(empty)),
        )
    ]


def _nothing(point: object) -> None:
    """Do nothing: the cheapest possible call."""
