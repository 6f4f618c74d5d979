"""The page of one task ID: its counts, its promise, what happened in one sentence, and its timeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from tasks_demo.core.semantics import PROMISES, Semantics
from tasks_demo.core.wording import counted, named, times
from tasks_demo.dashboard.advice import Better, better, why
from tasks_demo.dashboard.labels import BROKEN, COUNTS, Badge, ended_itself, outcome_badge, promise, verdict_badge
from tasks_demo.dashboard.lineage import Lineage, lineage
from tasks_demo.dashboard.phases import Line, Phase, phases
from tasks_demo.dashboard.swimlanes import Drawing, Moment, draw
from tasks_demo.ledger.events import EFFECT
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.ledger.queries import Gaps, Step, gaps_of, timeline

#: Maximum number of events on a page. `manage.py timeline` shows all.
MOST_STEPS = 500
#: Maximum number of other task IDs of the same operation that the page names.
MOST_SIBLINGS = 10


@dataclass(frozen=True, slots=True)
class Count:
    """One count with its name. ``needs_attention``: it deserves attention."""

    name: str
    value: int
    needs_attention: bool


@dataclass(frozen=True, slots=True)
class Relative:
    """A task ID of the same operation, with its verdict. ``is_current``: the one that the page is about."""

    task_id: str
    task: str
    badge: Badge
    is_current: bool


@dataclass(frozen=True, slots=True)
class TaskPage:
    """The content of one task ID's page."""

    tally: Tally
    badge: Badge
    broken: Badge | None
    counts: list[Count]
    promise: str
    happened: str
    why: str
    outcome: str
    better: Better | None
    outcome_badge: Badge
    drawing: Drawing
    phases: list[Phase]
    kills: list[Line]
    truncated: bool
    family: list[Relative]
    family_truncated: bool
    lineage: Lineage | None
    gaps: Gaps | None


def task_page(tally: Tally) -> TaskPage:
    """Read a task's events and arrange them for its page."""
    steps = list(islice(timeline(tally), MOST_STEPS + 1))
    arranged = phases(steps[:MOST_STEPS], _made_by_others(tally))
    kills = [line for phase in arranged for line in phase.lines if line.tone == "fault"]
    family = _family(tally)
    killed_at = [str(step.detail.get("point")) for step in steps if step.injected]
    return TaskPage(
        tally=tally,
        badge=verdict_badge(tally),
        broken=BROKEN if tally.broken else None,
        counts=_counts(tally),
        promise=promise(tally.pattern),
        happened=happened(tally, kills),
        why=why(tally, killed_at),
        outcome=outcome(tally),
        better=better(tally, killed_at),
        outcome_badge=outcome_badge(tally.outcome, tally.verdict),
        drawing=draw(map(moment, steps)),
        phases=arranged,
        kills=kills,
        truncated=len(steps) > MOST_STEPS,
        family=family[:MOST_SIBLINGS],
        family_truncated=len(family) > MOST_SIBLINGS,
        lineage=lineage(
            tally.task_id, next((str(step.detail["parent"]) for step in steps if step.detail.get("parent")), "")
        ),
        gaps=gaps_of(tally),
    )


def moment(step: Step) -> Moment:
    """Convert a step of the ledger's timeline for the drawing."""
    detail = step.detail
    return Moment(
        after_ms=step.after_ms,
        kind=step.kind,
        worker=step.worker,
        pid=step.pid,
        note=step.what,
        redelivered=bool(detail.get("redelivered")),
        injected=step.injected,
        victim=str(detail.get("victim") or _victim(str(detail.get("what")))),
        point=str(detail.get("point", "")),
        main_pid=detail.get("main_pid"),
        child_pid=detail.get("child_pid"),
    )


def _victim(fault: str) -> str:
    return {"kill-child": "child", "kill-main": "main", "kill-group": "group", "poison": "child"}.get(fault, "")


def _family(tally: Tally) -> list[Relative]:
    """Some task IDs of this one's operation, in the order in which they were first seen; empty if it is the only one."""
    if not tally.operation:
        return []
    # Sorted here: with ORDER BY and LIMIT a planner may walk the index on first_at instead of the one on the operation.
    family = Tally.objects.filter(operation=tally.operation).order_by()[: MOST_SIBLINGS + 1]
    found = [
        Relative(each.task_id, each.task, verdict_badge(each), each.task_id == tally.task_id)
        for each in sorted(family, key=lambda each: (each.first_at, each.task_id))
    ]
    return found if len(found) > 1 else []


def _made_by_others(tally: Tally) -> dict[str, str]:
    """Map effects of the same operation that other task IDs caused: number in the books → task ID. At most 100."""
    others = Event.objects.filter(kind=EFFECT, operation=tally.operation).exclude(task_id__in=["", tally.task_id])
    return {str(detail.get("source")): task_id for detail, task_id in others.values_list("detail", "task_id")[:100]}


def _counts(tally: Tally) -> list[Count]:
    always = ("publications", "deliveries", "executions", "effects", "suppressed")
    others = ("deferred", "fenced", "failed", "faults")
    shown = [*always, *(name for name in others if getattr(tally, name))]
    return [
        Count(named(getattr(tally, name), *COUNTS[name]), getattr(tally, name), name in counts_needing_attention(tally))
        for name in shown
    ]


def counts_needing_attention(tally: Tally) -> frozenset[str]:
    """Return the names of counts that deserve attention. Empty for a task whose pattern promises nothing."""
    if tally.pattern not in PROMISES:
        return frozenset()
    lost = tally.verdict == Tally.Verdict.LOST
    found = {
        "executions": tally.executions > 1,
        "effects": tally.effects > 1 or lost,
        "faults": tally.faults > 0,
        "failed": tally.failed > 0,
    }
    return frozenset(name for name, is_loud in found.items() if is_loud)


def happened(tally: Tally, kills: Sequence[Line]) -> str:
    """Describe what happened in one sentence, without judging it."""
    begun = f"started {times(tally.executions)}" if tally.executions else "never started"
    delivered = f"delivered {times(tally.deliveries)}" if tally.deliveries else "never delivered"
    parts = [f"It was {delivered}, and its body was {begun}"]
    if tally.executions > tally.deliveries:
        # Receipts are committed later than starts (ledger.recorder).
        parts = [
            f"Its body was started {times(tally.executions)} "
            f"({counted(tally.deliveries, 'delivery', 'deliveries')} on record: "
            "a receipt can be lost with the worker that had it)"
        ]
    if kills:
        first = kills[0].what.split(":")[0]
        parts.append(f"{counted(len(kills), 'fault')} injected ({first})")
    if tally.suppressed:
        parts.append(f"{times(tally.suppressed)} the body was not run again, because the work was already done")
    if tally.books:
        parts.append(f"the {tally.books}'s books show {counted(tally.effects, 'effect')}")
    elif tally.effects:
        parts.append(f"it recorded {counted(tally.effects, 'effect')} itself, and nobody outside counts them")
    else:
        parts.append("nobody outside counts its effects, so its executions are judged")
    return "; ".join(parts) + "."


def outcome(tally: Tally) -> str:
    """Say in one sentence whether the promise was kept. An unknown outcome is never called kept."""
    found = PROMISES.get(tally.pattern)
    if found is None:
        return "There is no promise to keep or to break."
    if tally.broken:
        return f"The promise of {tally.pattern} was broken."
    match tally.verdict:
        case Tally.Verdict.UNRESOLVED:
            return f"Whether the promise was kept is not known yet: {_missing(tally)}."
        case Tally.Verdict.DROPPED:
            return f"It was {tally.outcome}, so nobody wants its effect any more."
        case Tally.Verdict.PARKED:
            return "It waits in the quarantine for people; nothing is lost by that."
        case _ if ended_itself(tally):
            return "No message was lost: the promise was kept."
        case _ if not tally.books:
            return _judged_by_executions(tally)
        case Tally.Verdict.LOST:
            return f"The effect was lost, and still {tally.pattern} kept its promise: {found.semantics} allows that."
        case Tally.Verdict.DUPLICATED if found.semantics is Semantics.AT_LEAST_ONCE:
            done = times(tally.effects)
            return f"The effect happened {done}, and still {tally.pattern} kept its promise: {found.semantics} allows that."
        case Tally.Verdict.RECOVERED:
            return "It was delivered again and still had one effect: the promise was kept."
    return "The promise was kept."


def _judged_by_executions(tally: Tally) -> str:
    match tally.verdict:
        case Tally.Verdict.LOST:
            return "It was killed, and nobody runs it again, which its pattern allows: the promise was kept."
        case Tally.Verdict.DUPLICATED:
            return f"Its body came to its end {times(max(tally.returned, tally.effects))}, which its pattern allows."
    return "As far as its executions tell, the promise was kept."


def _missing(tally: Tally) -> str:
    if not tally.ended and not tally.settled:
        return "no delivery of it has come to an end"
    if not tally.publications and not tally.effects:
        return "its publication was not confirmed"
    return "the books have not been read since it ended"
