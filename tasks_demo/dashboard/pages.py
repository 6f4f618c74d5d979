"""The order of the list as segments, each of which an index serves in the order of time: latest first, or problems first."""

from __future__ import annotations

from tasks_demo.dashboard.keyset import Segment, Tallies
from tasks_demo.ledger.models import (
    NOTABLE_OUTCOME,
    NOTABLE_VERDICT,
    OPEN,
    STILL_RUNNING,
    STILL_WAITING,
    Outcome,
    Tally,
)

OPEN_OUTCOMES = frozenset({Outcome.WAITING.value, Outcome.RUNNING.value, Outcome.RETRYING.value})


def promise_broken(tallies: Tallies) -> Tallies:
    """Return the tallies whose promise was broken.

    The condition is stated twice for SQLite: once to match the partial index, and once as the value to look up in it.
    """
    return tallies.filter(broken=True, broken__in=[True])


def of_verdict(tallies: Tallies, verdict: str) -> Tallies:
    """Return the tallies with this verdict, by the partial index that holds it. None holds ``ok``."""
    if verdict == Tally.Verdict.OK:
        return tallies.filter(verdict=verdict)
    return tallies.filter(OPEN if verdict == Tally.Verdict.UNRESOLVED else NOTABLE_VERDICT, verdict=verdict)


def of_outcome(tallies: Tallies, outcome: str) -> Tallies:
    """Return the tallies with this outcome, by the partial index that holds it. None holds ``succeeded``.

    What is called lost neither waits nor runs.
    """
    if outcome == Outcome.SUCCEEDED:
        return tallies.filter(outcome=outcome)
    if outcome == Outcome.WAITING:
        return tallies.filter(OPEN, STILL_WAITING)
    if outcome == Outcome.RUNNING:
        return tallies.filter(OPEN, STILL_RUNNING)
    return tallies.filter(OPEN if outcome in OPEN_OUTCOMES else NOTABLE_OUTCOME, outcome=outcome)


def latest_first(tallies: Tallies, leading: Tallies | None = None, *, few: bool = False) -> list[Segment]:
    """Return the one segment of all. ``leading`` and ``few``: see ``Segment``."""
    return [Segment(tallies, leading, few)]


def problems_first(tallies: Tallies, *, narrowed: bool = False, few: bool = False) -> list[Segment]:
    """Split the task IDs into disjoint segments, worst first. ``narrowed``: other filters are in ``tallies``."""
    worst_first = ("DUPLICATED", "LOST", "PARKED", "UNRESOLVED", "DROPPED", "RECOVERED", "OK")
    everything = Tally.objects.all()
    segments = [Segment(promise_broken(tallies), promise_broken(everything) if narrowed else None, few)]
    for name in worst_first:
        verdict = Tally.Verdict[name]
        leading = None
        if verdict == Tally.Verdict.UNRESOLVED:
            leading = everything.filter(OPEN)
        elif narrowed:
            leading = everything if verdict == Tally.Verdict.OK else of_verdict(everything, verdict)
        segments.append(Segment(of_verdict(tallies.filter(broken=False), verdict), None if few else leading, few))
    return segments
