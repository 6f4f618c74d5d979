"""Counts the events that a process could not write while the ledger was unavailable, logs them, and describes them as one
``gap`` event.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tasks_demo.core import clock
from tasks_demo.core.wording import counted
from tasks_demo.ledger.events import EventData

logger = logging.getLogger(__name__)
#: Seconds between two errors in the log while the ledger is unavailable.
LOG_EVERY_SECONDS = 60.0
#: Maximum number of tasks that the event names. The rest are counted under "others".
NAMED = 20


#: Events of this process that were late or lost. The counts only grow; an event may count as late first and as lost afterwards.
totals: Counter[str] = Counter()


class Gap:
    """One period in which the ledger was unavailable to this process. ``late`` events are kept and written afterwards; ``lost``
    events are not written.
    """

    def __init__(self) -> None:
        self.since = time.time()
        self.late: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self._logged_at = float("-inf")

    def add_late(self, rows: Iterable[EventData]) -> None:
        tasks = [_task(row) for row in rows]
        self.late.update(tasks)
        totals["late"] += len(tasks)

    def add_lost(self, row: EventData) -> None:
        if self.late[_task(row)] > 0:
            self.late[_task(row)] -= 1
        self.lost[_task(row)] += 1
        totals["lost"] += 1

    def log(self, why: object, waiting: int) -> None:
        """Log one error now, then at most one every LOG_EVERY_SECONDS."""
        if time.monotonic() - self._logged_at < LOG_EVERY_SECONDS:
            return
        self._logged_at = time.monotonic()
        logger.error(
            "%s Jobs continue, unless they need a recorded start. %s kept for the next attempt, %d lost.",
            why, counted(waiting, "event"), self.lost.total(),
        )  # fmt: skip

    def detail(self) -> dict[str, Any]:
        """Return the event's detail: timestamps in ISO format, and counts by task."""
        late, lost = +self.late, +self.lost
        return {
            "since": clock.iso(self.since),
            "until": clock.iso(time.time()),
            "late": late.total(),
            "lost": lost.total(),
            "late_by_task": _named(late),
            "lost_by_task": _named(lost),
        }


def _task(row: EventData) -> str:
    return row.task or row.kind


def _named(counts: Counter[str]) -> dict[str, int]:
    named = dict(counts.most_common(NAMED))
    others = counts.total() - sum(named.values())
    return {**named, "others": others} if others else named
