"""The order of the list as segments, each of which an index serves in the order of time: latest first, or problems first."""

from __future__ import annotations

from datetime import datetime

from tasks_demo.dashboard.keyset import KnownTaskIds, Segment, Tallies
from tasks_demo.ledger.models import (
    NOTABLE_OUTCOME,
    NOTABLE_VERDICT,
    OPEN,
    STILL_RUNNING,
    STILL_WAITING,
    Outcome,
    Tally,
)

_VERDICT = Tally.Verdict
#: What is not a broken promise, the worst first.
_WORST_FIRST = (
    _VERDICT.DUPLICATED, _VERDICT.LOST, _VERDICT.PARKED, _VERDICT.UNRESOLVED, _VERDICT.DROPPED, _VERDICT.RECOVERED, _VERDICT.OK,
)  # fmt: skip
_BROKEN = "broken"
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


def latest_first(tallies: Tallies, leading: Tallies | None = None) -> list[Segment]:
    """Return the one segment of all. ``leading``: see ``Segment``."""
    return [Segment(tallies, leading)]


def problems_first(tallies: Tallies, *, narrowed: bool = False) -> list[Segment]:
    """Split the task IDs into disjoint segments, worst first. ``narrowed``: other filters are in ``tallies``."""
    everything = Tally.objects.all()
    segments = [Segment(promise_broken(tallies), promise_broken(everything) if narrowed else None)]
    for verdict in _WORST_FIRST:
        leading = None
        if verdict == Tally.Verdict.UNRESOLVED:
            leading = everything.filter(OPEN)
        elif narrowed:
            leading = everything if verdict == Tally.Verdict.OK else of_verdict(everything, verdict)
        segments.append(Segment(of_verdict(tallies.filter(broken=False), verdict), leading))
    return segments


def segments_of_few_rows(tallies: Tallies, *, problems: bool) -> list[KnownTaskIds]:
    """Read all of these, which must be few, and return the segments of either order."""
    # Without ORDER BY and LIMIT, which PostgreSQL takes for a reason to walk through the table in the order of time.
    known = list(tallies.order_by().values_list("task_id", "first_at", "broken", "verdict"))
    if not problems:
        return [KnownTaskIds((task_id, at) for task_id, at, _, _ in known)]
    parts: dict[str, list[tuple[str, datetime]]] = {name: [] for name in (_BROKEN, *_WORST_FIRST)}
    for task_id, at, broken, verdict in known:
        parts[_BROKEN if broken else verdict].append((task_id, at))
    return [KnownTaskIds(part) for part in parts.values()]
