"""Questions to the ledger."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import BooleanField, Case, Min, Q, QuerySet, Value, When
from django.db.models.expressions import RawSQL

from tasks_demo.core import clock
from tasks_demo.core.wording import counted, shown
from tasks_demo.ledger.books import RECORDED
from tasks_demo.ledger.events import EFFECT, FAULT, SETTLED
from tasks_demo.ledger.models import Event, Tally

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
    injected: bool  # a fault that was injected
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Gaps:
    """What processes could not write while the ledger was away. ``processes``: how many such accounts there are."""

    processes: int
    since: datetime
    until: datetime
    late: int
    lost: int

    @property
    def sentence(self) -> str:
        """What it means, in one sentence without a moment."""
        return (
            f"{counted(self.processes, 'process', 'processes')} could not reach the ledger: {counted(self.lost, 'event')} lost, "
            f"{self.late} written late. A process that was killed meanwhile left no account: counts of that time may be too low"
        )


#: As text: SQLite finds an index that holds gaps alone by a value that it can read, not by a parameter.
_IS_GAP = RawSQL("kind = 'gap'", (), output_field=BooleanField())
#: Accounts that are added up, the latest.
MOST_GAPS = 500
#: So long a gap is said wherever the whole ledger is shown, seconds.
RECENT = 86400.0


def gaps(since: datetime, until: datetime | None = None) -> Gaps | None:
    """The accounts of gaps that overlap this time, added up; None: there is none."""
    latest = Event.objects.filter(_IS_GAP, at__gte=since).order_by("-at").values_list("detail", flat=True)[:MOST_GAPS]
    those = [each for each in latest if until is None or _moment(each["since"]) <= clock.aware(until)]
    if not those:
        return None
    return Gaps(
        processes=len(those),
        since=min(_moment(each["since"]) for each in those),
        until=max(_moment(each["until"]) for each in those),
        late=sum(int(each["late"]) for each in those),
        lost=sum(int(each["lost"]) for each in those),
    )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def gaps_of(tally: Tally) -> Gaps | None:
    """The gaps in which events of this task may be missing: within its life, which for one without an end goes on."""
    return gaps(tally.first_at, tally.last_at if tally.ended else None)


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
            injected=event.kind == FAULT and bool(event.detail.get("landed")),
            detail=event.detail,
        )


def _publications_first(events: QuerySet[Event]) -> Iterator[Event]:
    """Each publication at its time, or, if that is later, before what a worker did with its message."""
    waiting = deque(events.filter(kind="published"))
    published = deliveries = 0
    for event in events.exclude(kind="published").iterator():
        # A message that is delivered again was published once. What has no receipt on record was published all the same.
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
        said = ", ".join(f"{key} {value}" for key, value in detail.items() if key not in {"source", "open_since"})
        if name == RECORDED:
            return f"recorded by the task itself{': ' if said else ''}{said}"
        return f"the {name + chr(39) + 's ' if name else ''}books{f', number {number}' if number else ''}: {said}{by}"
    if event.kind == SETTLED:
        return "all was quiet and the books were read"
    if event.kind == "received":
        return "delivered again" if detail.get("redelivered") else "delivered"
    return ", ".join(f"{name} {value}" for name, value in detail.items() if name not in {"body", "task"})
