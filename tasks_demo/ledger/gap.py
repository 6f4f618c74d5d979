"""What a process could not write down in time while the ledger was away: counted, said, and written as one event afterwards."""

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
#: Seconds between two errors in the log while the ledger stays away.
SAY_EVERY_SECONDS = 60.0
#: How many tasks the event names; the rest is counted under "others".
NAMED = 20


#: Events of this process so far that were late, and of those, or besides, lost. They only grow.
totals: Counter[str] = Counter()


class Gap:
    """One absence of the ledger, as one process sees it. ``late`` points are kept and follow, ``lost`` ones do not."""

    def __init__(self) -> None:
        self.since = time.time()
        self.late: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self._said_at = float("-inf")

    def add_late(self, rows: Iterable[EventData]) -> None:
        tasks = [_task(row) for row in rows]
        self.late.update(tasks)
        totals["late"] += len(tasks)

    def add_lost(self, row: EventData) -> None:
        if self.late[_task(row)] > 0:
            self.late[_task(row)] -= 1
        self.lost[_task(row)] += 1
        totals["lost"] += 1

    def say(self, why: object, waiting: int) -> None:
        """One error now, and one a minute while it lasts."""
        if time.monotonic() - self._said_at < SAY_EVERY_SECONDS:
            return
        self._said_at = time.monotonic()
        logger.error(
            "%s Jobs go on that do not need a recorded start. %s kept for the next attempt, %d lost.",
            why, counted(waiting, "event"), self.lost.total(),
        )  # fmt: skip

    def detail(self) -> dict[str, Any]:
        """The event's detail; moments in ISO format, counts by task."""
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
