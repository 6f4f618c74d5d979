"""Time series of the overview, from the rollups: how task IDs went that were first seen in each span, and what waited."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from tasks_demo.core import clock
from tasks_demo.ledger import rollups

#: Name of a period → its length and the length of one point, seconds.
PERIODS: dict[str, tuple[int, int]] = {
    "hour": (rollups.HOUR, rollups.MINUTE),
    "day": (rollups.DAY, 15 * rollups.MINUTE),
    "week": (7 * rollups.DAY, rollups.HOUR),
}
#: Column of a rollup → name of the line.
LINES = {"succeeded": "done", "failed": "failed", "executions_2": "repeated", "lost": "lost"}


@dataclass(frozen=True, slots=True)
class Point:
    """Task IDs per minute in one span, in the order of LINES; the largest backlog seen in it (None: nobody looked)."""

    at: datetime
    rates: list[float]
    waiting: int | None
    oldest: int | None


def points(period: str, now: float | None = None) -> list[Point]:
    """Return the points of a period, oldest first; the last is still growing."""
    length, step = PERIODS[period]
    end = int((now or time.time()) // step) * step
    start = end - length + step
    span = rollups.HOUR if step == rollups.HOUR else rollups.MINUTE
    counts: dict[int, Counter[str]] = {}
    for at, row in rollups.series(span, start, LINES).items():
        counts.setdefault(at // step * step, Counter()).update(row)
    waiting: dict[int, int] = {}
    oldest: dict[int, int] = {}
    for sample in rollups.backlog(start):
        at = sample.minute // step * step
        waiting[at] = max(waiting.get(at, 0), sample.waiting)
        oldest[at] = max(oldest.get(at, 0), sample.oldest)
    per_minute = step / rollups.MINUTE
    return [
        Point(
            at=clock.from_epoch(at),
            rates=[round(counts.get(at, Counter())[name] / per_minute, 2) for name in LINES],
            waiting=waiting.get(at),
            oldest=oldest.get(at),
        )
        for at in range(start, end + step, step)
    ]
