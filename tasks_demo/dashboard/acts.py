"""The timeline of one task in acts: publishing, then one act per delivery, then what came after.

Which delivery an event belongs to is inferred from its worker and pid. Where a delivery's receipt was lost with the
worker that had it, the act says so instead of inventing one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tasks_demo.core.points import BY_MAIN
from tasks_demo.dashboard.words import KINDS
from tasks_demo.ledger.events import EFFECT, FAULT, SETTLED
from tasks_demo.ledger.queries import Step

#: Pauses between two acts shorter than this are not worth a word, milliseconds.
SHORT_PAUSE_MS = 500.0
_BEFORE = frozenset({"published"})
_AFTER = frozenset({SETTLED})


@dataclass(frozen=True, slots=True)
class Line:
    """One event as the screen shows it. ``offset`` is milliseconds since the first one, as text."""

    at: datetime
    after_ms: float
    offset: str
    kind: str
    meaning: str
    what: str
    worker: str
    pid: int | None
    tone: str  # "", "effect", "fell" (a fault that landed), "missed" (one that did not), "trouble"
    headline: str = ""  # "Killed here"
    by: str = ""  # the other task ID that made this effect, if it was another


@dataclass(slots=True)
class Act:
    """``kind`` is "publishing", "delivery" or "afterwards"; ``pause`` says how long nothing happened before it."""

    kind: str
    number: int = 0
    worker: str = ""
    main_pid: int | None = None
    pids: list[int] = field(default_factory=list)
    again: bool = False
    receipt_lost: bool = False
    pause: str = ""
    lines: list[Line] = field(default_factory=list)
    points: set[str] = field(default_factory=set)

    @property
    def fell(self) -> bool:
        """Whether a fault landed in it."""
        return any(line.tone == "fell" for line in self.lines)


def acts(steps: Iterable[Step], made_by: Mapping[str, str] | None = None) -> list[Act]:
    """Arrange the steps of a timeline. ``made_by``: the books' number of an effect → the other task ID that made it."""
    cast = _Cast(made_by or {})
    for step in steps:
        cast.take(step)
    return cast.finished()


class _Cast:
    def __init__(self, made_by: Mapping[str, str]) -> None:
        self.made_by = made_by
        self.acts: list[Act] = []

    def take(self, step: Step) -> None:
        act = self._act_of(step)
        act.lines.append(_line(step, self.made_by))
        act.points.add(step.kind)
        if step.worker and not act.worker:
            act.worker = step.worker
        if step.kind in BY_MAIN:
            act.main_pid = act.main_pid or step.pid
        elif step.pid == act.main_pid:
            pass  # main tells of a job whose process died
        elif act.kind == "delivery" and step.worker and step.pid is not None and step.pid not in act.pids:
            act.pids.append(step.pid)
        if step.kind == FAULT and act.kind == "delivery":
            act.main_pid = act.main_pid or step.detail.get("main_pid")

    def _act_of(self, step: Step) -> Act:
        if step.kind in _BEFORE:
            return self._last("publishing") or self._open("publishing")
        if step.kind in _AFTER:
            return self._last("afterwards") or self._open("afterwards")
        if step.kind == "fetched":
            return self._open("delivery", worker=step.worker, main_pid=step.pid)
        if step.kind == "received":
            fetched = self._last("delivery")
            if fetched and fetched.points == {"fetched"} and fetched.main_pid == step.pid:
                fetched.again = bool(step.detail.get("redelivered"))
                return fetched
            again = bool(step.detail.get("redelivered"))
            return self._open("delivery", worker=step.worker, main_pid=step.pid, again=again)
        deliveries = [act for act in self.acts if act.kind == "delivery"]
        if step.kind == FAULT:
            return _struck(deliveries, step) or self._last() or self._open("afterwards")
        if step.kind == EFFECT:
            # The books do not know the worker: it is the one that had begun an effect which is not in the books yet.
            waiting = [act for act in deliveries if "effect_begun" in act.points and EFFECT not in act.points]
            return waiting[-1] if waiting else self._last() or self._open("afterwards")
        return _at_work(deliveries, step) or self._open("delivery", worker=step.worker, receipt_lost=True)

    def _last(self, kind: str = "") -> Act | None:
        """The act that is going on, if it is of this kind."""
        return self.acts[-1] if self.acts and kind in ("", self.acts[-1].kind) else None

    def _open(self, kind: str, **fields: Any) -> Act:
        act = Act(kind, **fields)
        if kind == "delivery":
            act.number = 1 + sum(other.kind == "delivery" for other in self.acts)
        self.acts.append(act)
        return act

    def finished(self) -> list[Act]:
        until = 0.0
        for act in self.acts:
            begins = act.lines[0].after_ms
            if begins - until >= SHORT_PAUSE_MS and act is not self.acts[0]:
                act.pause = duration(begins - until)
            until = max(until, *(line.after_ms for line in act.lines))
        return self.acts


def _struck(deliveries: list[Act], step: Step) -> Act | None:
    for act in reversed(deliveries):
        if step.detail.get("child_pid") in act.pids:
            return act
    for act in reversed(deliveries):
        if step.detail.get("main_pid") in {act.main_pid, *act.pids} - {None}:
            return act
    return None


def _at_work(deliveries: list[Act], step: Step) -> Act | None:
    of_worker = [act for act in reversed(deliveries) if act.worker == step.worker]
    if step.kind in BY_MAIN or (step.pid is not None and step.pid in {act.main_pid for act in of_worker}):
        of_main = [act for act in of_worker if step.pid is None or act.main_pid in (None, step.pid)]
        # Of several deliveries to one worker the earliest that has no such event is meant, as deliveries end in their order.
        return next((act for act in reversed(of_main) if step.kind not in act.points), None)
    for act in of_worker:
        if step.pid in act.pids and not (step.kind == "started" and "started" in act.points):
            return act
    # Deliveries that no pool process has taken up yet; the earliest first, as the pool takes them.
    return next((act for act in reversed(of_worker) if not act.pids), None)


def _line(step: Step, made_by: Mapping[str, str]) -> Line:
    tone = {EFFECT: "effect", FAULT: "fell" if step.fell else "missed"}.get(step.kind, "")
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
        headline=_headline(step) if step.fell else "",
        by=made_by.get(str(step.detail.get("source")), "") if step.kind == EFFECT else "",
    )


def _headline(step: Step) -> str:
    return "Killed here" if str(step.detail.get("what")).startswith("kill") else "Fault injected here"


def _what(step: Step) -> str:
    if step.kind == "published":
        outcome = step.detail.get("outcome", "ok")
        return "" if outcome == "ok" else f"outcome {outcome}"
    if step.kind == SETTLED:
        return ""  # its meaning says it
    return step.what


def duration(milliseconds: float) -> str:
    """``640 ms``, ``4.7 s``, ``3 min 20 s``."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"
