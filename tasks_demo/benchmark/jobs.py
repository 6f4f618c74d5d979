"""The benchmark's tasks. Their bodies do nothing, so that the cost of the pattern is measured.

Only the benchmark and its workers import this module, so no other worker knows these tasks.
"""

from __future__ import annotations

import time
from typing import Any

from celery import shared_task

from tasks_demo.core.conf import settings
from tasks_demo.leases.redis_client import connect
from tasks_demo.outbox.enqueue import Outbox
from tasks_demo.patterns import AcksEarly, AcksLate, ClaimFirst, DedupLock, Inbox
from tasks_demo.patterns.base import PatternTask

PATTERNS: dict[str, type[PatternTask]] = {
    "acks_early": AcksEarly,
    "claim_first": ClaimFirst,
    "acks_late": AcksLate,
    "dedup_lock": DedupLock,
    "inbox": Inbox,
    "outbox": Outbox,
}


def _nothing(number: int) -> int:
    """Return the number, so that the worker's log shows that the body ran and was not suppressed."""
    return number


#: The same body under every pattern, with the pattern's default options.
TASKS: dict[str, Any] = {
    name: pattern.task(name=f"tasks_demo.benchmark.{name}")(_nothing) for name, pattern in PATTERNS.items()
}
#: The same tasks without counting attempts.
UNCOUNTED: dict[str, Any] = {
    name: PATTERNS[name].task(name=f"tasks_demo.benchmark.{name}.uncounted", max_attempts=None)(_nothing)
    for name in ("acks_late", "dedup_lock")
}


@shared_task(name="tasks_demo.benchmark.plain", acks_late=True, reject_on_worker_lost=True)
def plain(number: int) -> int:
    """Return the number. A task of Celery's own class."""
    return number


@AcksLate.task(name="tasks_demo.benchmark.signal")
def signal_done(key: str) -> None:
    """Push "done" to the Redis list ``key``: a task ran to its end."""
    client = connect(settings.REDIS_URL, settings.REDIS_TIMEOUT_SECONDS)
    client.rpush(key, "done")
    client.close()


@Outbox.task(name="tasks_demo.benchmark.push_start_time")
def push_start_time(key: str) -> None:
    """Push the start time of this execution, on the machine-wide monotonic clock, to the Redis list ``key``."""
    now = time.clock_gettime(time.CLOCK_MONOTONIC)
    client = connect(settings.REDIS_URL, settings.REDIS_TIMEOUT_SECONDS)
    client.rpush(key, repr(now))
    client.close()
