"""Compares ``tasks_demo.transport`` with kombu's own transport for Redis: the same jobs, the same server, in turns."""

from __future__ import annotations

from collections.abc import Callable

from tasks_demo.benchmark import measures
from tasks_demo.benchmark.figures import Budget, Figure, Series
from tasks_demo.benchmark.jobs import UNCOUNTED, plain, push_start_time
from tasks_demo.benchmark.measures import Throughput
from tasks_demo.benchmark.publishing import Arm, producer
from tasks_demo.benchmark.run import Sizes
from tasks_demo.benchmark.workers import Bench
from tasks_demo.lab.processes.brokers import RedisLane
from tasks_demo.lab.processes.brokers.reliable import ReliableLane

#: Celery's own task class and its default prefetching: what a pattern does would be on both sides.
_ARMS = {
    name: Arm(f"plain-{name}", plain, conf={"worker_prefetch_multiplier": 4}, lane=lane)
    for name, lane in (("transport", ReliableLane), ("kombu", RedisLane))
}
#: The pattern, and no prefetching, as in the lab and in the project.
_PATTERN_ARMS = {name: Arm(f"acks_late-{name}", UNCOUNTED["acks_late"], lane=arm.lane) for name, arm in _ARMS.items()}
#: A plain task is so fast that fewer of them are over before a difference shows.
_TIMES_AS_MANY = 5


def transport(bench: Bench, sizes: Sizes, say: Callable[[str], None]) -> list[Figure]:
    """Return the figures of the part ``transport``."""
    consumed: dict[str, list[Throughput]] = {name: [] for name in _ARMS}
    by_pattern: dict[str, list[float]] = {name: [] for name in _ARMS}
    published: dict[str, list[float]] = {name: [] for name in _ARMS}
    count = sizes.tasks * _TIMES_AS_MANY
    waited: list[tuple[float, float, float]] = []
    idle: list[float] = []
    for number in range(sizes.rounds):
        # Alternate the order, so that a machine that becomes slower or faster favours neither.
        for name in list(_ARMS) if number % 2 == 0 else reversed(_ARMS):
            say(f"transport, round {number + 1} of {sizes.rounds}: {name}")
            consumed[name].append(measures.throughput(bench, _ARMS[name], count))
            by_pattern[name].append(measures.throughput(bench, _PATTERN_ARMS[name], sizes.tasks).per_second)
            published[name].append(measures.published_per_second(bench, _ARMS[name], count))
        say(f"transport, round {number + 1} of {sizes.rounds}: single jobs, an idle worker")
        waited.append(_waited(bench, sizes.jobs, number))
        idle.append(measures.commands_per_second(bench, _ARMS["transport"]))
    own, foreign, stock = zip(*waited, strict=True)
    single = f"Published → started, one job at a time, p50 of {sizes.jobs} jobs a round"
    return [
        Figure(
            "transport",
            "Consuming plain acks_late tasks, prefetch 4: transport / kombu's",
            Series("transport", "tasks/s", tuple(one.per_second for one in consumed["transport"])),
            Series("kombu", "tasks/s", tuple(one.per_second for one in consumed["kombu"])),
            Budget("A/B ≥ 1.5", "ratio", least=1.5),
        ),
        Figure(
            "transport_pattern",
            "Consuming tasks of the pattern acks_late, attempts not counted, prefetch 1: transport / kombu's",
            Series("transport", "tasks/s", tuple(by_pattern["transport"])),
            Series("kombu", "tasks/s", tuple(by_pattern["kombu"])),
        ),
        Figure(
            "transport_cpu",
            "CPU time of the main process per plain task, prefetch 4: transport / kombu's",
            Series("transport", "ms", tuple(one.cpu_main_ms for one in consumed["transport"])),
            Series("kombu", "ms", tuple(one.cpu_main_ms for one in consumed["kombu"])),
            Budget("A/B ≤ 0.6", "ratio", most=0.6),
        ),
        Figure(
            "transport_publishing",
            "Publishing plain tasks one by one: transport / kombu's",
            Series("transport", "messages/s", tuple(published["transport"])),
            Series("kombu", "messages/s", tuple(published["kombu"])),
            Budget("A/B ≥ 1.2", "ratio", least=1.2),
        ),
        Figure(
            "transport_latency",
            f"{single}: transport / kombu's",
            Series("transport", "ms", own),
            Series("kombu", "ms", stock),
            Budget("A/B ≤ 1.1", "ratio", most=1.1),
        ),
        Figure(
            "transport_latency_stock",
            f"{single}: published by kombu's transport, run by a worker of this one",
            Series("mixed", "ms", foreign),
            budget=Budget("A ≤ 10 ms", "a", most=10.0),
        ),
        Figure(
            "transport_idle",
            f"Commands of an idle worker, over {measures.IDLE_SECONDS:g} s",
            Series("transport", "per s", tuple(idle)),
            budget=Budget("A ≤ 10", "a", most=10.0),
        ),
    ]


def _waited(bench: Bench, jobs: int, seed: int) -> tuple[float, float, float]:
    """Milliseconds until the start: both ends on the transport; its worker and a stock publisher; both ends stock."""
    arm = Arm("latency", push_start_time)
    with (
        bench.lane(kind=ReliableLane) as ours,
        bench.lane() as theirs,
        bench.worker(arm, ours),
        bench.worker(arm, theirs),
        producer(ours) as own,
        producer(RedisLane(bench.redis.url, ours.prefix)) as foreign,
        producer(theirs) as stock,
    ):
        kinds = [measures.directly(ours, own), measures.directly(ours, foreign), measures.directly(theirs, stock)]
        first, second, third = measures.starts(bench, kinds, jobs, seed)
    return first, second, third
