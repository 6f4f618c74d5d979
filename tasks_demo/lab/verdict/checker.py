"""Decides what a history proves about a promise: held, broken, or unknown. Pure functions of the events.

Terms, for one cell (one pattern under one fault):

lost        the publication of the operation was confirmed, the system is quiescent, the books were read: 0 effects,
            and it is not in quarantine, where an operator can see and requeue it
duplicated  2 or more effects of one operation
recovered   2 or more deliveries of one task ID, and its promise was kept
unresolved  not lost and not duplicated, in a cell whose evidence cannot settle it

A promise bounds the executions of each task ID and the effects of each operation. The verdict, in this order:

1. evidence contradicts itself (forged, repeated, written by a dead process)              -> unknown
2. an upper bound is exceeded, whatever else is missing                                    -> broken
3. evidence is missing (not quiescent, books not read, fewer events than were recorded)    -> unknown
4. a lower bound is not reached by something whose publication was confirmed               -> broken
5. nothing was tried (no injected kill where there is a fault), a refused task ran, or an
   upper bound was exceeded by a message that waited in a worker until its broker delivered
   it again, in a cell that is not about that                                              -> unknown
6. otherwise                                                                               -> held

``python -m tasks_demo.lab.verdict EVENTS.jsonl`` checks a file without Django, Celery or Redis.

Over 300 lines: the rules of one verdict, read together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tasks_demo.core.semantics import BY_NAME, PROMISES, Bounds, Promise
from tasks_demo.core.wording import counted
from tasks_demo.lab.verdict.evidence import (
    ANY_PUBLICATION,
    DELIVERIES,
    EFFECTS,
    EXECUTIONS,
    INFO,
    MASK,
    OK,
    Evidence,
    Kill,
    gather,
)
from tasks_demo.lab.verdict.findings import Findings, bounds_in_words, count_or_no, name
from tasks_demo.lab.verdict.history import HistoryError, HistoryEvent
from tasks_demo.lab.verdict.quiescence import quiescence
from tasks_demo.lab.verdict.statistics import bars, rate_interval, spread, upper_bound

_DELIVERIES, _EXECUTIONS, _EFFECTS = (value.bit_length() - 1 for value in (DELIVERIES, EXECUTIONS, EFFECTS))
_CONFIRMED, _PERHAPS = MASK * OK, MASK * INFO
_BREAKS = {"exceeded", "unmet"}
#: Seconds: recoveries are counted up to each of these, and beyond the last.
RECOVERY_EDGES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
#: How many jobs of each kind a cell names.
_EXAMPLES = 2


@dataclass(frozen=True)
class CellResult:
    """The verdict on one cell and its counts. Durations are seconds; ``bound_95``: see :func:`_bound`.

    ``recoveries``: kills by time to recovery, see RECOVERY_EDGES. ``examples``: operations that were lost or duplicated, and task
    IDs that were killed, the first few of each.
    """

    pattern: str
    semantics: str
    fault: str
    point: str
    broker: str
    publisher: str
    seed: int | None
    tasks: int
    published: int
    kills: dict[str, int]
    executions: dict[str, int]
    effects: dict[str, int]
    lost: int
    duplicated: int
    recovered: int
    suppressed: int
    deferred: int
    fenced: int
    quarantined: int
    unresolved: int
    recovery_s: dict[str, float | None]
    recoveries: list[int]
    examples: dict[str, list[str]]
    duration_s: float
    promise: dict[str, list[int | None]]
    observed: str
    bound_95: float
    reasons: list[str]
    judged: str = "books"
    load: dict[str, Any] | None = None


def check(events: Iterable[HistoryEvent], promises: Mapping[str, Promise] = PROMISES) -> list[CellResult]:
    """One result per cell, in the order in which the cells begin. An empty history has no cells, and proves nothing.

    Raises HistoryError if the events are not numbered one after the other, or a pattern has no promise.
    """
    return [judge(evidence, promises) for evidence in gather(events)]


def judge(evidence: Evidence, promises: Mapping[str, Promise] = PROMISES) -> CellResult:
    """Decide whether the promise held in one cell, from what was seen (the order of the rules: ``Findings.verdict``)."""
    promise = promises.get(evidence.pattern) or BY_NAME.get((evidence.quiescent or {}).get("semantics", ""))
    if promise is None:
        raise HistoryError(f"no promise is known for pattern {evidence.pattern!r:.80}; known: {', '.join(promises)}")
    found = Findings(evidence.contradictions)
    end = quiescence(evidence, found.missing)

    # Few different counts occur however many tasks there are: judge each count once, then name the tasks that have it.
    operations = Counter(evidence.operations.values())
    parked = evidence.parked
    overdue = _overdue(evidence, end.waiting_limit)
    _name_all(
        found, evidence.operations.items(), {c: _of_effects(c, promise) for c in operations}, str, parked, overdue
    )
    tasks = Counter(evidence.tasks.values())
    judged = {count: _of_executions(count, promise) for count in tasks}
    _name_all(found, evidence.tasks.items(), judged, evidence.operation, parked, overdue)
    _unstarted(found, evidence, tasks)
    for task_id, operation in evidence.named_otherwise:
        if evidence.operation(task_id) != operation:
            found.contradictions.say(
                f"the books show an effect of {name(task_id)} on {name(operation)}, not its operation"
            )

    published = sum(number for count, number in tasks.items() if count & _CONFIRMED)
    total = sum(number for count, number in tasks.items() if count & ANY_PUBLICATION)
    if end.tasks is not None and total < end.tasks:
        found.missing.say(f"{counted(end.tasks, 'task')} to be published; the history holds the publication of {total}")
    injected = [kill for kill in evidence.kills if kill.injected]
    if len(injected) > end.kills:
        found.contradictions.say(f"{counted(len(injected), 'kill')} injected, {end.kills} planned")
    if not injected and (end.kills or evidence.fault != "none"):
        why = next((f": {name(kill.why)}" for kill in evidence.kills if kill.why), "")
        found.doubts.say(f"nothing was tried: no {evidence.fault} injected of {end.kills} planned{why}")

    observed, reasons = found.verdict()
    effects = _histogram(operations, _EFFECTS)
    complete = not found.missing
    lost = sum(number for count, number in operations.items() if count & _CONFIRMED and not count >> _EFFECTS)
    lost -= sum(
        bool(count & _CONFIRMED) and not count >> _EFFECTS for count in map(evidence.operations.get, parked) if count
    )
    lost = lost if complete else 0
    settled = complete and not found.contradictions
    recoveries = [kill.recovery for kill in injected if kill.recovery is not None]
    return CellResult(
        pattern=evidence.pattern,
        semantics=str(promise.semantics),
        fault=evidence.fault,
        point=evidence.point,
        broker=evidence.broker,
        publisher=end.publisher,
        seed=end.seed,
        tasks=total,
        published=published,
        kills={"planned": end.kills, "landed": len(injected)},
        executions=_histogram(tasks, _EXECUTIONS),
        effects=effects,
        lost=lost,
        duplicated=effects["2+"],
        recovered=_recovered(evidence, promise, tasks) if complete else 0,
        suppressed=evidence.counts.get("suppressed", 0),
        deferred=evidence.counts.get("deferred", 0),
        fenced=evidence.counts.get("fenced", 0),
        quarantined=len(parked),
        unresolved=0 if settled else sum(effects.values()) - lost - effects["2+"],
        recovery_s=spread(recoveries),
        recoveries=bars(recoveries, RECOVERY_EDGES),
        examples={
            "lost": _first(
                evidence, lambda count, who: bool(count & _CONFIRMED) and not count >> _EFFECTS and who not in parked
            )
            if lost
            else [],
            "duplicated": _first(evidence, lambda count, _: count >> _EFFECTS > 1) if effects["2+"] else [],
            "killed": list(dict.fromkeys(kill.task_id for kill in injected if kill.task_id))[:_EXAMPLES],
        },
        duration_s=end.duration,
        promise={"executions": promise.executions.as_list(), "effects": promise.effects.as_list()},
        observed=observed,
        bound_95=_bound(observed, len(found.violated), len(injected), end.kills, total),
        reasons=reasons,
        judged=end.judged,
        load=_under_load(evidence, end.load, injected, lost) if end.load else None,
    )


def _under_load(evidence: Evidence, rate: int, kills: list[Kill], lost: int) -> dict[str, Any]:
    """What is counted of a cell under load, beside what is counted of any cell.

    ``held``: jobs that the killed workers held, over all kills. ``again``: executions of a job beyond its first, and
    ``unexplained``: those of a job that no killed worker held.
    """
    excused = evidence.holdings.excused if evidence.holdings else {}
    extra = {who: (count >> _EXECUTIONS) - 1 for who, count in evidence.tasks.items() if count >> _EXECUTIONS > 1}
    again = sum(extra.values())
    memory = [size for kill in kills if type(size := kill.detail.get("memory")) is int]
    ready = evidence.holdings.memory if evidence.holdings else []
    seen = {what: [n for kill in kills if type(n := kill.detail.get(what)) is int] for what in ("queued", "unacked")}
    return {
        "rate": rate,
        "in_flight": spread([queued + unacked for queued, unacked in zip(*seen.values(), strict=True)]),
        "held": sum(kill.held for kill in kills),
        "again": again,
        "unexplained": sum(max(0, count - excused.get(who, 0)) for who, count in extra.items()),
        "lost_per_kill": list(rate_interval(lost, len(kills))) if kills else None,
        "again_per_kill": list(rate_interval(again, len(kills))) if kills else None,
        "memory_mb": {
            name: round(max(sizes) / 2**20, 1) if sizes else None
            for name, sizes in (("ready", ready), ("killed", memory))
        },
    }


def _first(evidence: Evidence, wanted: Callable[[int, str], bool]) -> list[str]:
    """The first few operations that are wanted."""
    return list(islice((who for who, count in evidence.operations.items() if wanted(count, who)), _EXAMPLES))


_Finding = tuple[str, str] | None  # the name of a list in Findings, and a sentence


def _of_effects(count: int, promise: Promise) -> _Finding:
    """What the counts of one operation say."""
    effects, bounds = count >> _EFFECTS, promise.effects
    if not count & ANY_PUBLICATION:
        return "contradictions", "has an effect in the books, but was never published"
    if bounds.exceeded_by(effects):
        return "exceeded", f"{effects} effects, {bounds_in_words(bounds)}"
    if not count & (_CONFIRMED | _PERHAPS):
        return ("doubts", "took effect although the broker refused it") if effects else None
    if count & _CONFIRMED and effects not in bounds:
        return "unmet", f"{count_or_no(effects, 'effect')}, {bounds_in_words(bounds)}"
    return None


def _of_executions(count: int, promise: Promise) -> _Finding:
    """What the counts of one task ID say."""
    executions, bounds = count >> _EXECUTIONS, promise.executions
    if not count & ANY_PUBLICATION:
        return ("contradictions", "was executed but never published") if executions else None
    if bounds.exceeded_by(executions):
        return "exceeded", f"{executions} executions, {bounds_in_words(bounds)}"
    if not count & (_CONFIRMED | _PERHAPS):
        return ("doubts", "was executed although the broker refused it") if executions else None
    if count & _CONFIRMED and executions not in bounds:
        return "unmet", f"{count_or_no(executions, 'execution')}, {bounds_in_words(bounds)}"
    return None


def _name_all(
    found: Findings,
    counts: Iterable[tuple[str, int]],
    findings: Mapping[int, _Finding],
    operation_of: Callable[[str], str],
    parked: Collection[str],
    overdue: Mapping[str, str],
) -> None:
    if not any(findings.values()):
        return
    for who, count in counts:
        finding = findings[count]
        if finding is not None:
            kind, what = finding
            if kind == "unmet" and operation_of(who) in parked:
                continue  # neither done nor lost: an operator sees it
            if kind == "exceeded" and (why := overdue.get(operation_of(who))):
                found.doubts.say(f"{name(who)}: {what}, but {why}")
                continue
            getattr(found, kind).say(f"{name(who)}{': ' if kind in _BREAKS else ' '}{what}")
            if kind in _BREAKS:
                found.violated.add(operation_of(who))


def _overdue(evidence: Evidence, limit: float) -> Mapping[str, str]:
    """Operation → why its message was delivered again though its worker lived; empty where that cannot be the reason."""
    if not limit:
        return {}
    why = (
        f"its message was delivered again to the worker that held it: it waited for longer than the visibility timeout of this "
        f"cell, {limit:g} s, as happens on a slow machine"
    )
    return {evidence.operation(task_id): why for task_id in evidence.overdue}


def _unstarted(found: Findings, evidence: Evidence, tasks: Iterable[int]) -> None:
    """Effects of operations of which no task ID was ever executed: no worker can have caused them."""
    if all(count >> _EXECUTIONS for count in tasks):
        return
    operations = evidence.operations
    idle = {evidence.operation(task_id) for task_id, count in evidence.tasks.items() if not count >> _EXECUTIONS}
    suspects = {operation for operation in idle if operations.get(operation, 0) >> _EFFECTS}
    if suspects:
        suspects -= {evidence.operation(task_id) for task_id, count in evidence.tasks.items() if count >> _EXECUTIONS}
    for operation in sorted(suspects):
        found.contradictions.say(f"{name(operation)} has an effect in the books, but no worker started it")


def _recovered(evidence: Evidence, promise: Promise, tasks: Iterable[int]) -> int:
    """Number of task IDs that were delivered more than once and whose promise was kept."""
    again = {
        count
        for count in tasks
        if count & ANY_PUBLICATION
        and (count >> _DELIVERIES) & MASK >= 2
        and count >> _EXECUTIONS in _owed(promise.executions, count)
    }
    if not again:
        return 0
    operations = [
        evidence.operations[evidence.operation(task)] for task, count in evidence.tasks.items() if count in again
    ]
    return sum(count >> _EFFECTS in _owed(promise.effects, count) for count in operations)


def _owed(bounds: Bounds, count: int) -> Bounds:
    """Nothing is owed to a task whose publication was not confirmed."""
    return bounds if count & _CONFIRMED else Bounds(0, bounds.most)


def _histogram(counts: Mapping[int, int], shift: int) -> dict[str, int]:
    """How many of the published ones occurred never, once, and twice or more."""
    bars = {"0": 0, "1": 0, "2+": 0}
    for count, number in counts.items():
        if count & ANY_PUBLICATION:
            bars[("0", "1", "2+")[min(count >> shift, 2)]] += number
    return bars


def _bound(observed: str, violations: int, injected: int, planned: int, tasks: int) -> float:
    """The 95 % upper bound on the rate of violations, per injected kill, or per task where no kill was planned.

    1.0 where the evidence settles nothing. Several violations by one kill count as no more than one a kill.
    """
    trials = injected if planned else tasks
    return 1.0 if observed == "unknown" else upper_bound(min(violations, trials), trials)
