"""The last event of a cell, ``quiescent``: whether nothing was left to do, and how much the runner had recorded. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks_demo.core.wording import counted
from tasks_demo.lab.verdict.evidence import Evidence
from tasks_demo.lab.verdict.findings import Sentences, name

#: What effects were counted from.
JUDGED = ("books", "effects", "executions")
_QUIET = ("queued", "unacked", "outbox", "running", "workers", "deferred")


@dataclass(frozen=True)
class Quiescence:
    kills: int
    tasks: int | None
    seed: int | None
    duration: float
    publisher: str = "direct"
    judged: str = "books"
    load: int = 0
    waiting_limit: float = 0.0


def quiescence(evidence: Evidence, missing: Sentences) -> Quiescence:
    """Return what the runner recorded last; add to ``missing`` what that does not prove."""
    seen = round(evidence.last_at - evidence.first_at, 6)
    end = evidence.quiescent
    if end is None:
        missing.say("the history ends before the cell was quiescent")
        return Quiescence(kills=len(evidence.kills), tasks=None, seed=None, duration=max(0.0, seen))
    if end.get("reason"):
        missing.say(f"not quiescent: {name(str(end['reason']))}")
    for what in _QUIET:
        if type(end.get(what)) is not int or end[what] != 0:
            missing.say(f"not quiescent: {what} is {_shown(end.get(what))}, not 0")
    if end.get("books_read") is not True:
        missing.say("the books were not read: the effects are not known")
    declared = end.get("events")
    if not isinstance(declared, dict) or not all(type(count) is int and count >= 0 for count in declared.values()):
        missing.say("the runner did not record how many events there are")
        declared = {}
    else:
        for kind in sorted(declared.keys() | evidence.counts.keys()):
            recorded, found = declared.get(kind, 0), evidence.counts.get(kind, 0)
            sentence = f"{counted(found, f'{kind} event')} found, {recorded} recorded"
            if found < recorded:
                missing.say(sentence)
            elif found > recorded:
                evidence.contradictions.say(sentence)
    duration = end.get("duration_s")
    return Quiescence(
        kills=_count(end, "planned_kills", missing) or 0,
        tasks=_count(end, "tasks", missing),
        seed=end["seed"] if type(end.get("seed")) is int else None,
        duration=float(duration) if isinstance(duration, (int, float)) and duration >= 0 else max(0.0, seen),
        judged=judged if (judged := end.get("judged")) in JUDGED else "books",
        load=load if type(load := end.get("load")) is int and load >= 0 else 0,
        waiting_limit=float(limit)
        if isinstance(limit := end.get("waiting_limit"), (int, float)) and limit >= 0
        else 0.0,
        publisher="outbox" if end.get("publisher") == "outbox" else "direct",
    )


def _count(end: dict[str, Any], what: str, missing: Sentences) -> int | None:
    value = end.get(what)
    if type(value) is int and value >= 0:
        return value
    missing.say(f"the runner did not record {what}")
    return None


def _shown(value: Any) -> str:
    return "not known" if value is None else repr(value)[:40]
