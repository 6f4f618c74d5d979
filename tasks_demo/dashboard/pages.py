"""Pages task IDs, latest first or problems first, without counting or sorting the whole table.

*Problems first* is a sequence of segments: broken promises, then duplicated, lost, parked, unresolved, dropped, and the rest. An
index serves each segment in the order of time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet

from tasks_demo.ledger.models import Tally

#: Counting stops here. Task IDs beyond it are reached with filters and the search.
MOST_COUNTED = 10_000

Tallies = QuerySet[Tally]
if TYPE_CHECKING:
    _Paginator = Paginator[Tally]
else:
    _Paginator = Paginator


def promise_broken(tallies: Tallies) -> Tallies:
    """Return the tallies whose promise was broken.

    The condition is stated twice for SQLite: once to match the partial index, and once as the value to look up in it.
    """
    return tallies.filter(broken=True, broken__in=[True])


def problems_first(tallies: Tallies) -> list[Tallies]:
    """Split the task IDs into disjoint segments, worst first."""
    kept = tallies.filter(broken=False)
    worst_first = ("DUPLICATED", "LOST", "PARKED", "UNRESOLVED", "DROPPED", "RECOVERED", "OK")
    return [promise_broken(tallies), *(kept.filter(verdict=Tally.Verdict[name]) for name in worst_first)]


class BoundedPaginator(_Paginator):
    """Paginates consecutive segments. ``count`` stops at ``most``; ``more`` is true if it did."""

    def __init__(self, segments: Sequence[Tallies], per_page: int, most: int = MOST_COUNTED) -> None:
        self.segments = segments
        self.most = most
        super().__init__(segments[0], per_page)

    @cached_property
    def _counts(self) -> list[int]:
        left = self.most + 1
        counts = []
        for segment in self.segments:
            counts.append(segment.order_by()[:left].count() if left else 0)
            left -= counts[-1]
        return counts

    @cached_property
    def count(self) -> int:
        """The number of task IDs that can be paged through."""
        return min(sum(self._counts), self.most)

    @property
    def more(self) -> bool:
        """Whether there are more than ``count``."""
        return sum(self._counts) > self.most

    def page(self, number: int | str) -> Page[Tally]:
        """Return one page. Raises InvalidPage."""
        number = self.validate_number(number)
        start = (number - 1) * self.per_page
        stop = min(start + self.per_page, self.count)
        found: list[Tally] = []
        for segment, count in zip(self.segments, self._counts, strict=True):
            if start < count and stop > 0:
                found += segment[max(0, start) : stop]
            start, stop = start - count, stop - count
        return Page(found, number, self)
