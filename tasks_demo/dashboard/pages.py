"""The order of the list as segments, each of which an index serves in the order of time: latest first, or problems first."""

from __future__ import annotations

from tasks_demo.dashboard.keyset import Segment, Tallies
from tasks_demo.ledger.models import Tally


def promise_broken(tallies: Tallies) -> Tallies:
    """Return the tallies whose promise was broken.

    The condition is stated twice for SQLite: once to match the partial index, and once as the value to look up in it.
    """
    return tallies.filter(broken=True, broken__in=[True])


def latest_first(tallies: Tallies, leading: Tallies | None = None, *, few: bool = False) -> list[Segment]:
    """Return the one segment of all. ``leading`` and ``few``: see ``Segment``."""
    return [Segment(tallies, leading, few)]


def problems_first(tallies: Tallies, *, narrowed: bool = False, few: bool = False) -> list[Segment]:
    """Split the task IDs into disjoint segments, worst first. ``narrowed``: other filters are in ``tallies``."""
    worst_first = ("DUPLICATED", "LOST", "PARKED", "UNRESOLVED", "DROPPED", "RECOVERED", "OK")
    segments = [Segment(promise_broken(tallies), promise_broken(Tally.objects.all()) if narrowed else None, few)]
    for name in worst_first:
        leading = Tally.objects.filter(verdict=Tally.Verdict[name]) if narrowed else None
        segments.append(Segment(tallies.filter(verdict=Tally.Verdict[name], broken=False), leading, few))
    return segments
