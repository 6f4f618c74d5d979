"""What the Learn page shows: a question and a recorded answer for each pattern and point, a chooser, and a quiz."""

from __future__ import annotations

from dataclasses import dataclass

from tasks_demo.core.points import Point
from tasks_demo.core.semantics import PROMISES, Semantics
from tasks_demo.core.wording import times
from tasks_demo.dashboard.advice import PATTERNS, Pattern
from tasks_demo.dashboard.labels import KINDS
from tasks_demo.dashboard.swimlanes import Drawing, draw, duration
from tasks_demo.lab.learn.recording import Case, Recording

#: The line of code at each point, the same for every pattern. Points that are missing here have none of the project's code.
CODE = {
    "published": "charge.delay(customer, 1999)",
    "fetched": "message = redis.pop(queue)",
    "received": "worker.take(message)",
    "claimed": "pattern.claim(operation)",
    "started": "def charge(customer, amount):",
    "effect_begun": "bank.debit(customer, amount, key)",
    "effect": "(at the bank) balance -= amount",
    "effect_done": "receipt = bank's response",
    "completed": "pattern.mark_completed(operation)",
    "returned": "return receipt",
    "acking": "worker.acknowledge(message)",
    "suppressed": "return  # done before",
}
_ORDER = [str(point) for point in Point]
_QUIZ = (
    "acks_late-effect_done", "acks_early-started", "dedup_lock-effect_done", "acks_late-fetched", "outbox-fetched",
    "claim_first-effect_begun", "acks_early-effect_done", "inbox-effect_done", "outbox-acking", "acks_late-effect_begun",
)  # fmt: skip


_PROMISED = {
    Semantics.AT_MOST_ONCE: "at most one charge",
    Semantics.AT_LEAST_ONCE: "at least one charge",
    Semantics.EFFECTIVELY_ONCE: "exactly one charge",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the playback. ``executions`` and ``effects``: how many there have been, this step included."""

    number: int
    after_ms: float
    offset: str
    kind: str
    where: str
    meaning: str
    code: str
    executions: int
    effects: int
    kill: bool
    x: float  # where the drawing has it


@dataclass(frozen=True, slots=True)
class Lesson:
    """One case with its question and its answer."""

    case: Case
    promised: str
    answer: str
    why: str
    kept: bool
    drawing: Drawing
    steps: list[Step]


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the quiz. ``number``: from 1."""

    number: int
    lesson: Lesson


@dataclass(frozen=True, slots=True)
class Row:
    """A point, and for each pattern its case or None."""

    point: str
    meaning: str
    cases: list[Case | None]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a pattern costs: jobs lost and done twice after kills of main, ten at each point; throughput of empty bodies relative
    to acks_late; the time from publication to start.
    """

    pattern: Pattern
    kills: int
    lost: int
    twice: int
    throughput: str
    latency: str


@dataclass(frozen=True, slots=True)
class Content:
    """All that the page shows."""

    recording: Recording
    patterns: list[str]
    rows: list[Row]
    lessons: list[Lesson]
    quiz: list[Question]
    costs: list[Cost]


#: Medians of docs/explanation/benchmarks.md and choosing.md, 26 November 2026, 2 cores.
_COSTS = {
    "acks_early": (79, 36, 10, "1.16", "3 ms"),
    "claim_first": (88, 52, 0, "1.11", "3 ms"),
    "acks_late": (80, 10, 30, "1", "3 ms"),
    "outbox": (80, 0, 20, "0.56", "343 ms"),
    "dedup_lock": (100, 0, 0, "1.02", "3 ms"),
    "inbox": (90, 0, 0, "0.74", "3 ms"),
}


def content(recording: Recording) -> Content:
    """Build the content of the page."""
    lessons = {case.name: _lesson(case) for case in recording.cases}
    patterns = [name for name in PATTERNS if any(case.pattern == name for case in recording.cases)]
    cases = {(case.pattern, case.point): case for case in recording.cases}
    points = sorted({case.point for case in recording.cases}, key=_ORDER.index)
    asked = [lessons[name] for name in _QUIZ if name in lessons]
    return Content(
        recording=recording,
        patterns=patterns,
        rows=[Row(point, KINDS[point], [cases.get((name, point)) for name in patterns]) for point in points],
        lessons=list(lessons.values()),
        quiz=[Question(number, lesson) for number, lesson in enumerate(asked, start=1)],
        costs=[Cost(PATTERNS[name], *_COSTS[name]) for name in PATTERNS],
    )


def _lesson(case: Case) -> Lesson:
    promise = PROMISES[case.pattern]
    drawing = draw(case.moments, name=case.name, title=f"{case.pattern}, killed at {case.point}")
    return Lesson(
        case=case,
        promised=_PROMISED[promise.semantics],
        answer=f"The customer is charged {times(case.effects)}.",
        why=why(case),
        kept=case.effects in promise.effects,
        drawing=drawing,
        steps=_steps(case, drawing),
    )


def why(case: Case) -> str:
    """Explain the outcome from what was recorded, in one or two sentences."""
    killed = next(number for number, moment in enumerate(case.moments) if moment.landed)
    before = any(moment.kind == "effect" for moment in case.moments[:killed])
    afterwards = {moment.kind for moment in case.moments[killed:]}
    again = "received" in afterwards
    if case.point == "fetched" and not again:
        return "The broker had handed the message out, and the worker had not recorded it yet: nobody has it any more."
    if case.point == "fetched":
        return "The message was gone. The outbox saw that nobody had started it, and published it again."
    if not case.effects and again:
        return "The message was delivered again, and stopped at the claim of the dead worker."
    if not case.effects:
        return "The message was acknowledged before the body ran, so nobody delivers it again."
    if case.effects > 1:
        return (
            "The charge had happened and the message was not acknowledged: it was delivered again, and charged again."
        )
    if not before:
        return "No charge was in the books yet. The message was delivered again."
    if not again:
        return "The charge had happened, and the message was acknowledged: nobody delivers it again."
    if "started" in afterwards:
        return "The charge had happened. The message was delivered again and ran again: the bank recognised the operation key."
    return "The charge had happened. The message was delivered again, and the body was not run: the first run was on record."


def _steps(case: Case, drawing: Drawing) -> list[Step]:
    xs = {id(mark.moment): mark.x for lane in drawing.lanes for mark in lane.marks}
    steps: list[Step] = []
    executions = effects = 0
    for number, moment in enumerate(case.moments, start=1):
        executions += moment.kind == "started"
        effects += moment.kind == "effect"
        kill = moment.kind == "fault"
        steps.append(
            Step(
                number=number,
                after_ms=moment.after_ms,
                offset=duration(moment.after_ms),
                kind="SIGKILL" if kill else moment.kind,
                where=moment.worker or {"published": "publisher", "effect": "bank"}.get(moment.kind, ""),
                meaning=f"the main process dies at {moment.point}, and its pool with it"
                if kill
                else KINDS.get(moment.kind, ""),
                code="" if kill else CODE.get(moment.kind, ""),
                executions=executions,
                effects=effects,
                kill=kill,
                x=xs.get(id(moment), drawing.width),
            )
        )
    return steps
