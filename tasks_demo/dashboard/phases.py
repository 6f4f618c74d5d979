"""Arranges the timeline of one task in phases: publishing, one phase per delivery, and afterwards.

The delivery that an event belongs to is inferred from the event's worker and pid. A phase shows if its delivery's receipt was
lost with the worker (``receipt_lost``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tasks_demo.core.points import BY_MAIN
from tasks_demo.dashboard.labels import KINDS
from tasks_demo.dashboard.swimlanes import duration
from tasks_demo.ledger.events import EFFECT, FAULT, SETTLED
from tasks_demo.ledger.queries import Step

#: Minimum pause between two phases that is shown, milliseconds.
SHORT_PAUSE_MS = 500.0
_BEFORE = frozenset({"published"})
_AFTER = frozenset({SETTLED})


@dataclass(frozen=True, slots=True)
class Line:
    """One event as the page shows it. ``offset``: milliseconds since the first event, as text."""

    at: datetime
    after_ms: float
    offset: str
    kind: str
    meaning: str
    what: str
    worker: str
    pid: int | None
    tone: str  # "", "effect", "fault" (a fault was injected), "missed" (it was not), "trouble"
    headline: str = ""  # "Killed here"
    by: str = ""  # the task ID that caused this effect, if it was another one


@dataclass(slots=True)
class Phase:
    """One phase. ``kind``: "publishing", "delivery" or "afterwards". ``pause``: how long nothing happened before it, as text."""

    kind: str
    number: int = 0
    worker: str = ""
    main_pid: int | None = None
    pids: list[int] = field(default_factory=list)
    redelivered: bool = False
    receipt_lost: bool = False
    pause: str = ""
    lines: list[Line] = field(default_factory=list)
    points: set[str] = field(default_factory=set)

    @property
    def has_fault(self) -> bool:
        """Whether a fault was injected in this phase."""
        return any(line.tone == "fault" for line in self.lines)


def phases(steps: Iterable[Step], made_by: Mapping[str, str] | None = None) -> list[Phase]:
    """Arrange the steps of a timeline in phases. ``made_by``: an effect's number in the books → the other task ID that caused
    it.
    """
    arranger = _Arranger(made_by or {})
    for step in steps:
        arranger.take(step)
    return arranger.finished()


class _Arranger:
    def __init__(self, made_by: Mapping[str, str]) -> None:
        self.made_by = made_by
        self.phases: list[Phase] = []

    def take(self, step: Step) -> None:
        phase = self._phase_of(step)
        phase.lines.append(_line(step, self.made_by))
        phase.points.add(step.kind)
        if step.worker and not phase.worker:
            phase.worker = step.worker
        if step.kind in BY_MAIN:
            phase.main_pid = phase.main_pid or step.pid
        elif step.pid == phase.main_pid:
            pass  # main reports on a job whose process died
        elif phase.kind == "delivery" and step.worker and step.pid is not None and step.pid not in phase.pids:
            phase.pids.append(step.pid)
        if step.kind == FAULT and phase.kind == "delivery":
            phase.main_pid = phase.main_pid or step.detail.get("main_pid")

    def _phase_of(self, step: Step) -> Phase:
        if step.kind in _BEFORE:
            return self._last("publishing") or self._open("publishing")
        if step.kind in _AFTER:
            return self._last("afterwards") or self._open("afterwards")
        if step.kind == "fetched":
            return self._open("delivery", worker=step.worker, main_pid=step.pid)
        if step.kind == "received":
            fetched = self._last("delivery")
            if fetched and fetched.points == {"fetched"} and fetched.main_pid == step.pid:
                fetched.redelivered = bool(step.detail.get("redelivered"))
                return fetched
            redelivered = bool(step.detail.get("redelivered"))
            return self._open("delivery", worker=step.worker, main_pid=step.pid, redelivered=redelivered)
        deliveries = [phase for phase in self.phases if phase.kind == "delivery"]
        if step.kind == FAULT:
            return _with_the_fault(deliveries, step) or self._last() or self._open("afterwards")
        if step.kind == EFFECT:
            # Books do not name the worker. Take the latest delivery that began an effect which no phase shows yet.
            waiting = [phase for phase in deliveries if "effect_begun" in phase.points and EFFECT not in phase.points]
            return waiting[-1] if waiting else self._last() or self._open("afterwards")
        return _at_work(deliveries, step) or self._open("delivery", worker=step.worker, receipt_lost=True)

    def _last(self, kind: str = "") -> Phase | None:
        """Return the latest phase if it is of this kind; "" matches any kind."""
        return self.phases[-1] if self.phases and kind in ("", self.phases[-1].kind) else None

    def _open(self, kind: str, **fields: Any) -> Phase:
        phase = Phase(kind, **fields)
        if kind == "delivery":
            phase.number = 1 + sum(other.kind == "delivery" for other in self.phases)
        self.phases.append(phase)
        return phase

    def finished(self) -> list[Phase]:
        until = 0.0
        for phase in self.phases:
            begins = phase.lines[0].after_ms
            if begins - until >= SHORT_PAUSE_MS and phase is not self.phases[0]:
                phase.pause = duration(begins - until)
            until = max(until, *(line.after_ms for line in phase.lines))
        return self.phases


def _with_the_fault(deliveries: list[Phase], step: Step) -> Phase | None:
    for phase in reversed(deliveries):
        if step.detail.get("child_pid") in phase.pids:
            return phase
    for phase in reversed(deliveries):
        if step.detail.get("main_pid") in {phase.main_pid, *phase.pids} - {None}:
            return phase
    return None


def _at_work(deliveries: list[Phase], step: Step) -> Phase | None:
    of_worker = [phase for phase in reversed(deliveries) if phase.worker == step.worker]
    if step.kind in BY_MAIN or (step.pid is not None and step.pid in {phase.main_pid for phase in of_worker}):
        of_main = [phase for phase in of_worker if step.pid is None or phase.main_pid in (None, step.pid)]
        # Take the worker's earliest delivery without such an event, because deliveries end in order.
        return next((phase for phase in reversed(of_main) if step.kind not in phase.points), None)
    for phase in of_worker:
        if step.pid in phase.pids and not (step.kind == "started" and "started" in phase.points):
            return phase
    # Else take the earliest delivery without a pool process, because the pool takes deliveries in order.
    return next((phase for phase in reversed(of_worker) if not phase.pids), None)


def _line(step: Step, made_by: Mapping[str, str]) -> Line:
    tone = {EFFECT: "effect", FAULT: "fault" if step.injected else "missed"}.get(step.kind, "")
    if step.kind in {"failed", "lease_lost", "fenced", "rejected", "revoked", "expired", "quarantined"}:
        tone = "trouble"
    return Line(
        at=step.at,
        after_ms=step.after_ms,
        offset=f"{step.after_ms:,.1f}".replace(",", "\N{NARROW NO-BREAK SPACE}"),
        kind=step.kind,
        meaning=KINDS.get(step.kind, ""),
        what=_what(step),
        worker=step.worker,
        pid=step.pid,
        tone=tone,
        headline=_headline(step) if step.injected else "",
        by=made_by.get(str(step.detail.get("source")), "") if step.kind == EFFECT else "",
    )


def _headline(step: Step) -> str:
    return "Killed here" if str(step.detail.get("what")).startswith("kill") else "Fault injected here"


def _what(step: Step) -> str:
    if step.kind == "published":
        outcome = step.detail.get("outcome", "ok")
        return "" if outcome == "ok" else f"outcome {outcome}"
    if step.kind == SETTLED:
        return ""  # the label already says it
    return step.what
