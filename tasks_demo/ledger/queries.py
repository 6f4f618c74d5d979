"""Queries on the ledger: tallies, timelines and gaps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import BooleanField, Case, Min, Q, QuerySet, Value, When
from django.db.models.expressions import RawSQL

from tasks_demo.core import clock
from tasks_demo.core.masking import masked, masked_body
from tasks_demo.core.wording import counted, shown
from tasks_demo.ledger.books import RECORDED
from tasks_demo.ledger.events import EFFECT, FAULT, SETTLED
from tasks_demo.ledger.models import Event, Tally

#: Kinds in the order of a job's life. Orders events that have the same timestamp.
_LIFE = (
    "published", "fetched", "received", "claimed", "started", "effect_begun", EFFECT, "effect_done", "completed", "returned",
    "retried", "failed", "acking", "acked", FAULT, SETTLED,
)  # fmt: skip
#: Kinds that may precede any publication.
_NOT_OF_A_DELIVERY = frozenset({EFFECT, FAULT, SETTLED})


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a timeline. ``after_ms``: milliseconds since the first event. ``what`` is printable and of bounded length;
    ``detail`` is as recorded, with the values hidden that TASKS_DEMO_MASKED names."""

    at: datetime
    after_ms: float
    kind: str
    worker: str
    pid: int | None
    what: str
    injected: bool  # a fault that was injected
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Gaps:
    """Events that processes could not write while the ledger was unavailable. ``processes``: the number of ``gap`` events."""

    processes: int
    since: datetime
    until: datetime
    late: int
    lost: int

    @property
    def sentence(self) -> str:
        """What the gaps mean, as one sentence without timestamps."""
        return (
            f"{counted(self.processes, 'process', 'processes')} could not reach the ledger: {counted(self.lost, 'event')} lost, "
            f"{self.late} written late. Processes that were killed meanwhile are not included: counts of that time may be too low"
        )


#: A literal, not a parameter: SQLite uses the partial index on gaps only if it can see the value.
_IS_GAP = RawSQL("kind = 'gap'", (), output_field=BooleanField())
#: Maximum number of ``gap`` events that are summed, newest first.
MOST_GAPS = 500
#: Pages that show the whole ledger mention gaps of the last RECENT seconds.
RECENT = 86400.0


def gaps(since: datetime, until: datetime | None = None) -> Gaps | None:
    """Sum the gaps that overlap this period, at most the newest MOST_GAPS. Returns None if there are none."""
    latest = Event.objects.filter(_IS_GAP, at__gte=since).order_by("-at").values_list("detail", flat=True)[:MOST_GAPS]
    those = [each for each in latest if until is None or datetime.fromisoformat(each["since"]) <= clock.aware(until)]
    if not those:
        return None
    return Gaps(
        processes=len(those),
        since=min(datetime.fromisoformat(each["since"]) for each in those),
        until=max(datetime.fromisoformat(each["until"]) for each in those),
        late=sum(int(each["late"]) for each in those),
        lost=sum(int(each["lost"]) for each in those),
    )


def gaps_of(tally: Tally) -> Gaps | None:
    """Return the gaps in which events of this task may be missing: from its first event to its last, or to now if not ended."""
    return gaps(tally.first_at, tally.last_at if tally.ended else None)


def find(task_id: str) -> Tally | None:
    """Return the tally of a task ID or of an unambiguous prefix. Returns None if no tally matches, or several do."""
    exact = Tally.objects.filter(task_id=task_id).first()
    if exact is not None or not task_id:
        return exact
    matches = list(Tally.objects.filter(task_id__startswith=task_id).order_by("task_id")[:2])
    return matches[0] if len(matches) == 1 else None


def timeline(tally: Tally) -> Iterator[Step]:
    """Yield a task's events and its operation's effects in the order of time and cause.

    Timestamps alone do not give this order: a publisher may record its publication after a worker has begun the job. So events
    with the same timestamp are in the order of a job's life, and a publication precedes its delivery. Timestamps are shown as
    recorded.
    """
    mine = Q(task_id=tally.task_id) | Q(kind=EFFECT, operation=tally.operation)
    events = Event.objects.filter(mine)
    first = events.aggregate(first=Min("at"))["first"]
    life = Case(*(When(kind=kind, then=Value(number)) for number, kind in enumerate(_LIFE)), default=Value(len(_LIFE)))
    for event in _publications_first(events.order_by("at", life, "id")):
        body = {"body": masked_body(str(event.detail["body"]))} if "body" in event.detail else {}
        event.detail = {**masked(event.detail), **body}
        yield Step(
            at=event.at,
            after_ms=(event.at - first).total_seconds() * 1000,
            kind=event.kind,
            worker=event.worker,
            pid=event.pid,
            what=shown(_what(event)),
            injected=event.kind == FAULT and bool(event.detail.get("landed")),
            detail=event.detail,
        )


def _publications_first(events: QuerySet[Event]) -> Iterator[Event]:
    """Yield each publication at its timestamp, or before the first worker event of its message if that is earlier."""
    waiting = deque(events.filter(kind="published"))
    published = deliveries = 0
    for event in events.exclude(kind="published").iterator():
        # A redelivered message was published once. A message without a recorded receipt was published too.
        deliveries += event.kind == "received" and not event.detail.get("redelivered")
        needed = 0 if event.kind in _NOT_OF_A_DELIVERY else max(1, deliveries)
        while waiting and (waiting[0].at <= event.at or published < needed):
            published += 1
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
        fields = ", ".join(f"{key} {value}" for key, value in detail.items() if key != "source")
        if name == RECORDED:
            return f"recorded by the task itself{': ' if fields else ''}{fields}"
        return f"the {name + chr(39) + 's ' if name else ''}books{f', number {number}' if number else ''}: {fields}{by}"
    if event.kind == SETTLED:
        return "the job had ended and the books were read"
    if event.kind == "received":
        return "delivered again" if detail.get("redelivered") else "delivered"
    return ", ".join(f"{name} {value}" for name, value in detail.items() if name not in {"body", "task"})
