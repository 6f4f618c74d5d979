"""Rate-limited logging, for lines that an outage repeats for every job: the first few of a kind, then a count per interval."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

#: Lines of one kind that are logged in full per interval, and the length of the interval in seconds.
MOST, SECONDS = 5, 60.0


@dataclass(slots=True)
class _Interval:
    logger: logging.Logger
    level: int
    began: float
    lines: int = 0
    left_out: int = 0


class LimitedLog:
    """Logs at most ``most`` lines of a kind per interval. Thread-safe; a forked child starts with empty counts.

    Does **not** log the count if the process ends before the interval does.
    """

    def __init__(self, most: int = MOST, seconds: float = SECONDS) -> None:
        self.most = most
        self.seconds = seconds
        self.reset()

    def reset(self) -> None:
        """Start with empty counts and a new lock: in a forked child a thread of the parent may hold the old one."""
        self._lock = threading.RLock()
        self._intervals: dict[Hashable, _Interval] = {}

    def __call__(
        self, logger: logging.Logger, level: int, kind: Hashable, message: str, *args: Any, **options: Any
    ) -> None:
        """Log ``message % args``, or count it. ``kind`` must come from a small set, because it is kept. Never raises."""
        with suppress(Exception):
            if self._is_written(logger, level, kind):
                logger.log(level, message, *args, **options)

    def _is_written(self, logger: logging.Logger, level: int, kind: Hashable) -> bool:
        now = time.monotonic()
        with self._lock:
            interval = self._intervals.get(kind)
            if interval is not None and now - interval.began >= self.seconds:
                self._end(kind, interval)
                interval = None
            if interval is None:
                interval = self._intervals[kind] = _Interval(logger, level, now)
            interval.lines += 1
            if interval.lines <= self.most:
                return True
            interval.left_out += 1
            if interval.left_out == 1:
                timer = threading.Timer(interval.began + self.seconds - now, self._end, (kind, interval))
                timer.daemon = True
                with suppress(RuntimeError):  # no thread can be started: the next line of this kind logs the count
                    timer.start()
            return False

    def _end(self, kind: Hashable, interval: _Interval) -> None:
        with self._lock:
            if self._intervals.get(kind) is not interval:
                return
            del self._intervals[kind]
            left_out = interval.left_out
        if left_out:
            what = " ".join(map(str, kind)) if isinstance(kind, tuple) else str(kind)
            interval.logger.log(interval.level, "... and %d more in the last %g s: %s", left_out, self.seconds, what)


limited_log = LimitedLog()
os.register_at_fork(after_in_child=limited_log.reset)
