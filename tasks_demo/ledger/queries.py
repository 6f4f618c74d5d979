"""Questions to the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Q

from tasks_demo.ledger.books import RECORDED
from tasks_demo.ledger.rows import EFFECT, FAULT, SETTLED
from tasks_demo.models import Event, Tally


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a timeline. ``after_ms``: milliseconds since the first one."""

    at: datetime
    after_ms: float
    kind: str
    worker: str
    pid: int | None
    what: str
    fell: bool  # a fault that landed
    detail: dict[str, Any]


def find(task_id: str) -> Tally | None:
    """The tally of a task ID, or of the only one that starts with it; None if there is none, or more than one."""
    exact = Tally.objects.filter(task_id=task_id).first()
    if exact is not None or not task_id:
        return exact
    matches = list(Tally.objects.filter(task_id__startswith=task_id).order_by("task_id")[:2])
    return matches[0] if len(matches) == 1 else None


def timeline(tally: Tally) -> Iterator[Step]:
    """What happened to a task, in the order in which it was written down: its own events, and its operation's effects."""
    mine = Q(task_id=tally.task_id) | Q(kind=EFFECT, operation=tally.operation)
    first: datetime | None = None
    for event in Event.objects.filter(mine).order_by("at", "id").iterator():
        first = first or event.at
        yield Step(
            at=event.at,
            after_ms=(event.at - first).total_seconds() * 1000,
            kind=event.kind,
            worker=event.worker,
            pid=event.pid,
            what=_what(event),
            fell=event.kind == FAULT and bool(event.detail.get("landed")),
            detail=event.detail,
        )


def _what(event: Event) -> str:
    detail = event.detail
    if event.kind == FAULT:
        where = f"at {detail.get('point')}"
        hit = f"{detail.get('what')} {where}: pid {detail.get('pid')}"
        return f"{hit} died ({detail.get('died')})" if detail.get("landed") else f"{hit} missed ({detail.get('why')})"
    if event.kind == EFFECT:
        name, _, number = str(detail.get("source", "")).partition(":")
        by = "" if event.task_id else ", by an unknown task"
        said = ", ".join(f"{key} {value}" for key, value in detail.items() if key not in {"source", "open_since"})
        if name == RECORDED:
            return f"recorded by the task itself{': ' if said else ''}{said}"
        return f"the {name + chr(39) + 's ' if name else ''}books{f', number {number}' if number else ''}: {said}{by}"
    if event.kind == SETTLED:
        return "all was quiet and the books were read"
    if event.kind == "received":
        return "delivered again" if detail.get("redelivered") else "delivered"
    return ", ".join(f"{name} {value}" for name, value in detail.items() if name not in {"body", "task"})
