"""Runs the rounds of the benchmark: every arm once per round, so that ratios compare the same machine in the same state."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings

from tasks_demo.benchmark import measures
from tasks_demo.benchmark.figures import Budget, Figure, Series
from tasks_demo.benchmark.jobs import TASKS, UNCOUNTED
from tasks_demo.benchmark.measures import RELAY_INTERVAL, Throughput
from tasks_demo.benchmark.publishing import Arm, Publisher
from tasks_demo.benchmark.run import Sizes
from tasks_demo.benchmark.workers import Bench

_DCR = {"result_backend": "django-db"}
_LEDGER = {
    "peer": Arm("peer", TASKS["acks_late"], conf=_DCR, ignore_result=False),
    # Configured as in its documentation: Celery then reopens the database connection around every task.
    "peer as shipped": Arm(
        "peer-as-shipped", TASKS["acks_late"], conf={**_DCR, "CELERY_DB_REUSE_MAX": None}, ignore_result=False
    ),
    "ledger": Arm("ledger", TASKS["acks_late"], ledger=True),
}
_LATE = {"acks_late": Arm("acks_late", TASKS["acks_late"])}
_LOCK = {
    "dedup_lock": Arm("dedup_lock", TASKS["dedup_lock"]),
    "acks_late uncounted": Arm("acks_late-uncounted", UNCOUNTED["acks_late"]),
    "dedup_lock uncounted": Arm("dedup_lock-uncounted", UNCOUNTED["dedup_lock"]),
}
_OTHERS = {name: Arm(name, TASKS[name]) for name in ("inbox", "claim_first", "acks_early")}
_PUBLISHING = {
    "outbox": Arm("outbox", TASKS["outbox"], publisher=Publisher.OUTBOX),
    "acks_late published": Arm("acks_late-published", TASKS["acks_late"], publisher=Publisher.MEANWHILE),
}


def throughput(bench: Bench, sizes: Sizes, say: Callable[[str], None]) -> list[Figure]:
    """Return the figures of the parts ``throughput`` and ``patterns``, if requested."""
    budgets, patterns = "throughput" in sizes.parts, "patterns" in sizes.parts
    peer = "django_celery_results" in settings.INSTALLED_APPS
    arms: dict[str, Arm] = {}
    # acks_late, the baseline, is in the middle; arms that are compared with each other are adjacent.
    if budgets:
        arms |= {name: arm for name, arm in _LEDGER.items() if name == "ledger" or peer}
    if patterns:
        arms |= _OTHERS
    if budgets or patterns:
        arms |= _LATE | {"dedup_lock": _LOCK["dedup_lock"]}
    if patterns:
        arms |= _PUBLISHING
    if budgets:
        arms |= _LOCK
    results = _rounds(bench, arms, sizes, say)
    figures = _figures_of_budgets(results) if budgets else []
    if patterns:
        figures += _figures_of_patterns(results, with_lock=not budgets)
    return figures


def latency(bench: Bench, sizes: Sizes, say: Callable[[str], None]) -> list[Figure]:
    """Return the figures of the part ``latency``: one p50 of single jobs per round."""
    pairs = []
    for number in range(sizes.rounds):
        say(f"single jobs, round {number + 1} of {sizes.rounds}")
        pairs.append(measures.latencies(bench, sizes.jobs, seed=number))
    through_outbox, direct = zip(*pairs, strict=True)
    return [
        Figure(
            "latency",
            f"Published → started, one job at a time, p50 of {sizes.jobs} jobs a round",
            Series("outbox and relay", "ms", through_outbox),
            Series("published directly", "ms", direct),
            Budget("A ≤ 20 ms", "a", most=20.0),
        ),
        Figure(
            "added_latency",
            f"Delay added by outbox and relay; if no commit wakes it, the relay looks every {RELAY_INTERVAL:g} s",
            Series("difference", "ms", tuple(more - less for more, less in pairs)),
        ),
    ]


def _rounds(
    bench: Bench, arms: dict[str, Arm], sizes: Sizes, say: Callable[[str], None]
) -> dict[str, list[Throughput]]:
    results: dict[str, list[Throughput]] = {name: [] for name in arms}
    for number in range(sizes.rounds):
        # Alternate the order, so that a machine that becomes slower or faster favours no arm.
        for name in list(arms) if number % 2 == 0 else reversed(arms):
            say(f"throughput, round {number + 1} of {sizes.rounds}: {name}")
            results[name].append(measures.throughput(bench, arms[name], sizes.tasks))
    return results


def _speed(results: dict[str, list[Throughput]], name: str, label: str = "") -> Series:
    return Series(label or name, "tasks/s", tuple(result.per_second for result in results[name]))


def _cost(results: dict[str, list[Throughput]], name: str, label: str = "") -> Series:
    return Series(label or name, "ms", tuple(result.cpu_main_ms + result.cpu_pool_ms for result in results[name]))


def _figures_of_budgets(results: dict[str, list[Throughput]]) -> list[Figure]:
    trips = tuple(result.round_trips for result in results["dedup_lock"])
    twice = Budget("A/B ≥ 2", "ratio", least=2.0)
    ledger = _speed(results, "ledger")
    peers = {
        "peer": ("with CELERY_DB_REUSE_MAX", "peer"),
        "peer_as_shipped": ("as its documentation sets it up", "peer as shipped"),
    }
    return [
        _lock(results),
        Figure(
            "dedup_lock_uncounted",
            "The same with max_attempts=None in both: no attempt is counted",
            _speed(results, "dedup_lock uncounted", "dedup_lock"),
            _speed(results, "acks_late uncounted", "acks_late"),
            Budget("A/B ≥ 0.90", "ratio", least=0.90),
        ),
        Figure(
            "round_trips",
            "Lease scripts run by Redis per execution",
            Series("dedup_lock", "", trips),
            # The upper bound allows for loading the script on a new server and for a renewal every ten seconds.
            budget=Budget("A = 2", "a", least=2.0, most=2.05),
        ),
        Figure(
            "ledger",
            "Throughput of acks_late, ledger on / off",
            _speed(results, "ledger", "on"),
            _speed(results, "acks_late", "off"),
            Budget("A/B ≥ 0.84", "ratio", least=0.84),
        ),
        *(
            Figure(
                name,
                f"Ledger on / django-celery-results {how}, ledger off",
                ledger if arm in results else None,
                _speed(results, arm, "django-celery-results") if arm in results else None,
                twice,
                why_not="" if arm in results else "install requirements-dev.txt",
            )
            for name, (how, arm) in peers.items()
        ),
        # CPU time varies less than speed while others use the machine.
        Figure(
            "ledger_cpu",
            "CPU time per task, ledger on / off",
            _cost(results, "ledger", "on"),
            _cost(results, "acks_late", "off"),
        ),
        Figure(
            "dedup_lock_uncounted_cpu",
            "CPU time per task, dedup_lock / acks_late, max_attempts=None in both",
            _cost(results, "dedup_lock uncounted", "dedup_lock"),
            _cost(results, "acks_late uncounted", "acks_late"),
        ),
    ]


def _lock(results: dict[str, list[Throughput]]) -> Figure:
    return Figure(
        "dedup_lock",
        "Throughput of dedup_lock / acks_late, ledger off and attempts counted in both",
        _speed(results, "dedup_lock"),
        _speed(results, "acks_late"),
        Budget("A/B ≥ 0.90", "ratio", least=0.90),
        pattern="dedup_lock",
    )


def _figures_of_patterns(results: dict[str, list[Throughput]], *, with_lock: bool) -> list[Figure]:
    """Return figures that compare each pattern, with its defaults, to acks_late with its defaults."""
    late = _speed(results, "acks_late")
    return [
        *([_lock(results)] if with_lock else []),
        *(
            Figure(name, f"Throughput of {name} / acks_late", _speed(results, name), late, pattern=name)
            for name in ("acks_early", "claim_first")
        ),
        Figure(
            "inbox",
            "Throughput of inbox / acks_late",
            _speed(results, "inbox"),
            late,
            Budget("A/B ≥ 0.85", "ratio", least=0.85),
            pattern="inbox",
        ),
        Figure(
            "outbox",
            "Throughput of outbox, including its relay / acks_late, all in the broker before the start",
            _speed(results, "outbox"),
            late,
            pattern="outbox",
        ),
        Figure(
            "outbox_publishing",
            "Throughput with publication: outbox and relay / acks_late published one by one",
            _speed(results, "outbox"),
            _speed(results, "acks_late published", "acks_late"),
            Budget("A/B ≥ 0.90", "ratio", least=0.90),
        ),
        *(
            Figure(
                f"{name}_cpu",
                f"CPU time of the worker per task, {name} / acks_late",
                _cost(results, name),
                _cost(results, "acks_late"),
                pattern=name,
            )
            for name in ("dedup_lock", "acks_early", "claim_first", "inbox", "outbox")
        ),
    ]
