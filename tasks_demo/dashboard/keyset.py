"""Pages task IDs by the place of the last one shown, without OFFSET and without counting or scanning the whole table.

The list is a sequence of segments, each in the order of time, latest first. *Latest first* is one segment. *Problems first* is
several: broken promises, then duplicated, lost, parked, unresolved, dropped, and the rest.

If no index serves all filters together, a page looks at WINDOW task IDs that the best index yields, and says so if it may not
have found all. What a search or a worker finds is few: it is read once, and sorted and counted here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from django.db.models import Q, QuerySet

from tasks_demo.core import clock
from tasks_demo.ledger.models import Tally

Tallies = QuerySet[Tally]
#: Maximum number of task IDs that one page looks at if no index serves all filters.
WINDOW = 3_000
#: Counting stops here.
MOST_COUNTED = 1_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the list: behind a task ID, or behind all of one moment if ``task_id`` is empty."""

    segment: int
    at: datetime
    task_id: str

    def __str__(self) -> str:
        microseconds = (clock.aware(self.at) - _EPOCH) // timedelta(microseconds=1)
        return f"{self.segment}:{microseconds}:{self.task_id}"

    @classmethod
    def parse(cls, text: str | None) -> Place | None:
        """Return the place that ``str`` wrote; None for any other text."""
        segment, _, rest = (text or "").partition(":")
        microseconds, colon, task_id = rest.partition(":")
        if not (
            colon and segment.isdecimal() and microseconds.isdecimal() and len(segment) < 3 and "\0" not in task_id
        ):
            return None
        try:
            task_id.encode()
            at = clock.for_column(_EPOCH + timedelta(microseconds=int(microseconds)))
        except (ValueError, OverflowError):  # a lone surrogate, or no moment
            return None
        return cls(int(segment), at, task_id)

    def following(self, tallies: Tallies, *, backward: bool) -> Tallies:
        """Return those that come after this place, or before it."""
        # The first condition is for the index, the second for task IDs of the same moment.
        if backward:
            exact = Q(first_at__gt=self.at) | Q(first_at=self.at, task_id__lt=self.task_id)
            return tallies.filter(exact if self.task_id else Q(first_at__gt=self.at), first_at__gte=self.at)
        exact = Q(first_at__lt=self.at) | Q(first_at=self.at, task_id__gt=self.task_id)
        return tallies.filter(exact if self.task_id else Q(first_at__lt=self.at), first_at__lte=self.at)

    def leads_to(self, at: datetime, task_id: str, *, backward: bool) -> bool:
        """Return whether ``following`` has this one."""
        if at != self.at:
            return at > self.at if backward else at < self.at
        return bool(self.task_id) and (task_id < self.task_id if backward else task_id > self.task_id)


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the list. ``leading``: what an index yields of it; ``tallies``: those that all filters let through."""

    tallies: Tallies
    leading: Tallies | None = None

    def read(self, place: Place | None, most: int, *, backward: bool) -> tuple[list[Tally], datetime | None]:
        """Return up to ``most`` from this place on, and the moment where it stopped looking before it had found them."""
        tallies, stopped = self.tallies, None
        if self.leading is not None:
            leading = self.leading if place is None else place.following(self.leading, backward=backward)
            if stopped := _end_of_window(leading, backward=backward):
                leading = leading.filter(**{"first_at__lte" if backward else "first_at__gte": stopped})
            # Not one condition: the planner would then be free to walk another index, far outside the window.
            tallies = tallies.filter(task_id__in=leading.order_by().values("task_id"))
        elif place is not None:
            tallies = place.following(tallies, backward=backward)
        ordered = tallies.order_by(*(("first_at", "-task_id") if backward else ("-first_at", "task_id")))
        found = list(ordered[:most])
        return found, stopped if len(found) < most else None

    def count(self, most: int) -> int:
        """Count up to ``most``. Slow if there is a ``leading``."""
        return self.tallies.order_by()[:most].count()


class KnownTaskIds:
    """A part of the list of which all task IDs are known."""

    def __init__(self, known: Iterable[tuple[str, datetime]]) -> None:
        by_name = sorted(known)
        self._known = sorted(by_name, key=lambda one: one[1], reverse=True)

    def read(self, place: Place | None, most: int, *, backward: bool) -> tuple[list[Tally], None]:
        """Return up to ``most`` from this place on."""
        ordered = reversed(self._known) if backward else iter(self._known)
        wanted = (task_id for task_id, at in ordered if place is None or place.leads_to(at, task_id, backward=backward))
        task_ids = list(islice(wanted, most))
        tallies = Tally.objects.in_bulk(task_ids)
        return [tallies[task_id] for task_id in task_ids if task_id in tallies], None

    def count(self, most: int) -> int:
        """Return how many there are, at most ``most``."""
        return min(most, len(self._known))


Part = Segment | KnownTaskIds


def _end_of_window(leading: Tallies, *, backward: bool) -> datetime | None:
    moments = leading.order_by("first_at" if backward else "-first_at").values_list("first_at", flat=True)
    return next(iter(moments[WINDOW : WINDOW + 1]), None)


@dataclass(frozen=True, slots=True)
class TaskIdPage:
    """One page. ``previous``, ``next``: the places of its neighbours. ``stopped``: where it stopped looking, not full yet."""

    rows: list[Tally]
    previous: Place | None
    next: Place | None
    stopped: datetime | None


def read_page(segments: Sequence[Part], size: int, *, after: Place | None, before: Place | None) -> TaskIdPage:
    """Read the page after a place, before a place, or else the first one."""
    backward = before is not None
    start = before or after
    numbers = range(len(segments)) if not backward else range(len(segments) - 1, -1, -1)
    found: list[tuple[int, Tally]] = []
    stopped: Place | None = None
    for number in numbers:
        if start is not None and (number > start.segment if backward else number < start.segment):
            continue
        place = start if start is not None and number == start.segment else None
        rows, end = segments[number].read(place, size + 1 - len(found), backward=backward)
        found += [(number, row) for row in rows]
        if end is not None and len(found) <= size:
            stopped = Place(number, end, "")
            break
        if len(found) > size:
            break
    more = len(found) > size
    shown = found[:size]
    far = _place(shown[-1]) if more else stopped
    near = _place(shown[0]) if shown and start is not None else start
    if backward:
        shown.reverse()
    rows = [row for _, row in shown]
    ends = stopped.at if stopped else None
    return TaskIdPage(rows, far, near, ends) if backward else TaskIdPage(rows, near, far, ends)


def _place(numbered: tuple[int, Tally]) -> Place:
    number, tally = numbered
    return Place(number, tally.first_at, tally.task_id)


def count(segments: Sequence[Part]) -> tuple[int, bool] | None:
    """Count all segments up to MOST_COUNTED. Returns also whether there are more; or None if no index serves one of them."""
    if any(isinstance(segment, Segment) and segment.leading is not None for segment in segments):
        return None
    total = 0
    for segment in segments:
        total += segment.count(MOST_COUNTED + 1 - total)
        if total > MOST_COUNTED:
            return MOST_COUNTED, True
    return total, False
