"""Questions to the ledger."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Case, Min, Q, QuerySet, Value, When

from tasks_demo.core.wording import shown
from tasks_demo.ledger.books import RECORDED
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.ledger.rows import EFFECT, FAULT, SETTLED

#: The order of a job's life, for events of the same moment.
_LIFE = (
    "published", "fetched", "received", "claimed", "started", "effect_begun", EFFECT, "effect_done", "completed", "returned",
    "retried", "failed", "acking", "acked", FAULT, SETTLED,
)  # fmt: skip
#: What can be there before any publication.
_NOT_OF_A_DELIVERY = frozenset({EFFECT, FAULT, SETTLED})


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a timeline. ``after_ms``: milliseconds since the first one. ``what`` is printable and bounded; ``detail`` is as
    it was recorded."""

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
    """What happened to a task: its own events, and its operation's effects, in the order of time and of cause.

    Clocks tie and race: a publisher learns of its publication when a worker has begun already. So events of one moment are in the
    order of a job's life, and a publication stands before the delivery that it made. The moments are as they were noted.
    """
    mine = Q(task_id=tally.task_id) | Q(kind=EFFECT, operation=tally.operation)
    events = Event.objects.filter(mine)
    first = events.aggregate(first=Min("at"))["first"]
    life = Case(*(When(kind=kind, then=Value(number)) for number, kind in enumerate(_LIFE)), default=Value(len(_LIFE)))
    for event in _publications_first(events.order_by("at", life, "id")):
        yield Step(
            at=event.at,
            after_ms=(event.at - first).total_seconds() * 1000,
            kind=event.kind,
            worker=event.worker,
            pid=event.pid,
            what=shown(_what(event)),
            fell=event.kind == FAULT and bool(event.detail.get("landed")),
            detail=event.detail,
        )


def _publications_first(events: QuerySet[Event]) -> Iterator[Event]:
    """Each publication at its time, or, if that is later, before what a worker did with its message."""
    waiting = deque(events.filter(kind="published"))
    told = deliveries = 0
    for event in events.exclude(kind="published").iterator():
        # A message that is delivered again was published once. What has no receipt on record was published all the same.
        deliveries += event.kind == "received" and not event.detail.get("redelivered")
        needed = 0 if event.kind in _NOT_OF_A_DELIVERY else max(1, deliveries)
        while waiting and (waiting[0].at <= event.at or told < needed):
            told += 1
            yield waiting.popleft()
        yield event
    yield from waiting


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
