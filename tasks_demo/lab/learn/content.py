"""What the Learn page shows: a question and a recorded answer for each pattern and point, a chooser, and a quiz."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks_demo.core.points import Point
from tasks_demo.core.semantics import PROMISES, Semantics
from tasks_demo.core.wording import times
from tasks_demo.dashboard.advice import PATTERNS, Pattern
from tasks_demo.dashboard.labels import KINDS
from tasks_demo.dashboard.swimlanes import Drawing, Moment, draw, duration
from tasks_demo.lab.learn.recording import Case, Recording

#: The line of code at each point, beside those of the task (``dashboard.advice.Code``).
CODE = {
    "fetched": "message = redis.pop(queue)",
    "received": "worker.take(message)",
    "claimed": "pattern.claim(operation)",
    "effect": "(at the bank) balance -= amount",
    "effect_done": "receipt = bank's response",
    "completed": "pattern.mark_completed(operation)",
    "returned": "return",
    "acking": "worker.acknowledge(message)",
    "suppressed": "return  # done before",
}
#: inbox does not ask the bank.
CODE_OF: dict[str, dict[str, str]] = {
    "inbox": {"effect": "(in our database) the booking is committed", "effect_done": "(not committed yet)"},
}
#: The other faults, in words.
OTHER_HITS = {
    "kill-child": "the pool process is killed at effect_done, as by the OOM killer",
    "lost-response": "the bank books the debit, and its answer is lost",
    "poison": "the pool process is killed at effect_begun, at every attempt",
}
_ORDER = [str(point) for point in Point]
_QUIZ = (
    "acks_late-effect_done", "acks_early-started", "dedup_lock-effect_done", "acks_late-fetched", "outbox-fetched",
    "claim_first-effect_begun", "inbox-effect_done", "acks_late-kill-child", "dedup_lock-lost-response", "acks_late-poison",
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
    """One case with its question and its answer. ``hit``: what the fault did, in words."""

    case: Case
    hit: str
    promised: str
    answer: str
    why: str
    kept: bool
    verdict: str
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
class Others:
    """One of the other faults in words, and its cases."""

    hit: str
    cases: list[Case]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a pattern costs: jobs lost and done twice by the recorded kills of main, one at each point; throughput of empty bodies
    relative to acks_late; the time from publication to start.
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
    others: list[Others]
    lessons: list[Lesson]
    quiz: list[Question]
    costs: list[Cost]


#: Medians of the benchmark: throughput and time to start, as docs/explanation/choosing.md has them (a test compares).
SPEED = {
    "acks_early": ("1.16", "3 ms"),
    "claim_first": ("1.11", "3 ms"),
    "acks_late": ("1", "3 ms"),
    "outbox": ("0.86", "6 ms"),
    "dedup_lock": ("1.02", "3 ms"),
    "inbox": ("0.88", "3 ms"),
}


def content(recording: Recording) -> Content:
    """Build the content of the page."""
    lessons = {case.name: _lesson(case) for case in (*recording.cases, *recording.others)}
    patterns = [name for name in PATTERNS if any(case.pattern == name for case in recording.cases)]
    cases = {(case.pattern, case.point): case for case in recording.cases}
    points = sorted({case.point for case in recording.cases}, key=_ORDER.index)
    asked = [lessons[name] for name in _QUIZ if name in lessons]
    return Content(
        recording=recording,
        patterns=patterns,
        rows=[Row(point, KINDS[point], [cases.get((name, point)) for name in patterns]) for point in points],
        others=[
            Others(said, [case for case in recording.others if case.fault == fault])
            for fault, said in OTHER_HITS.items()
            if any(case.fault == fault for case in recording.others)
        ],
        lessons=list(lessons.values()),
        quiz=[Question(number, lesson) for number, lesson in enumerate(asked, start=1)],
        costs=[_cost(name, [case for case in recording.cases if case.pattern == name]) for name in PATTERNS],
    )


def _cost(pattern: str, cases: Sequence[Case]) -> Cost:
    lost, twice = sum(case.effects == 0 for case in cases), sum(case.effects >= 2 for case in cases)
    return Cost(PATTERNS[pattern], len(cases), lost, twice, *SPEED[pattern])


def _lesson(case: Case) -> Lesson:
    promise = PROMISES[case.pattern]
    hit = OTHER_HITS.get(case.fault, f"the main process is killed at {case.point}")
    kept = case.effects in promise.effects or case.parked
    drawing = draw(case.moments, name=case.name, title=f"{case.pattern}: {hit}")
    return Lesson(
        case=case,
        hit=hit,
        promised=_PROMISED[promise.semantics],
        answer=f"The customer is charged {times(case.effects)}.",
        why=why(case),
        kept=kept,
        verdict=_verdict(case, promise.semantics) if kept else "The promise was broken.",
        drawing=drawing,
        steps=_steps(case, drawing),
    )


def _verdict(case: Case, semantics: Semantics) -> str:
    if case.effects == 1 or case.parked:
        return "The promise was kept."
    return f"And still {case.pattern} kept its promise: {semantics} allows that."


def why(case: Case) -> str:
    """Explain the outcome from what was recorded, in one or two sentences."""
    if case.fault == "lost-response":
        return _lost_response(case)
    if case.fault == "poison" and not case.effects:
        return _poison(case)
    killed = next(number for number, moment in enumerate(case.moments) if moment.injected)
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


def _lost_response(case: Case) -> str:
    if not any(moment.kind == "retried" for moment in case.moments):
        return "The bank had booked the debit. The task saw an error, and nobody ran it again."
    again = "The bank had booked the debit. The task saw an error and was run again"
    if case.effects > 1:
        return f"{again}, and charged again: to the bank it was another debit."
    return f"{again} with the same operation key: the bank gave its first answer again."


def _poison(case: Case) -> str:
    kills = sum(moment.injected for moment in case.moments)
    if case.parked:
        return (
            f"Each of {kills} attempts was killed before the charge. Then the message was parked: nobody delivers it until a "
            "person decides."
        )
    return "The message was acknowledged before the body ran, so nobody delivers it again."


def _steps(case: Case, drawing: Drawing) -> list[Step]:
    xs = {id(mark.moment): mark.x for lane in drawing.lanes for mark in lane.marks}
    written = PATTERNS[case.pattern].code
    code = CODE | CODE_OF.get(case.pattern, {})
    code |= {"published": written.published, "started": written.signature, "effect_begun": written.effect}
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
                kind=moment.kind if not kill else "SIGKILL" if moment.victim else "no answer",
                where=moment.worker or {"published": "publisher", "effect": "bank"}.get(moment.kind, ""),
                meaning=_fault(moment) if kill else KINDS.get(moment.kind, ""),
                code="" if kill else code.get(moment.kind, ""),
                executions=executions,
                effects=effects,
                kill=kill,
                x=xs.get(id(moment), drawing.width),
            )
        )
    return steps


def _fault(moment: Moment) -> str:
    if moment.victim == "main":
        return f"the main process dies at {moment.point}, and its pool with it"
    if moment.victim:
        return f"the pool process dies at {moment.point}; its main process lives"
    return "seen when the run had ended: the bank had booked the debit and reset the connection"
