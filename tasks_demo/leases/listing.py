"""Lists the lease records in Redis, for operators. Calls SCAN a bounded number of times, and does not read stored results.

Does **not** guarantee a complete list: SCAN may miss records that change meanwhile, and a Redis with many keys is read only in
part (``Listing.truncated``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote

import redis

from tasks_demo.core.exceptions import LeaseStoreUnavailable
from tasks_demo.core.lifecycle import described
from tasks_demo.leases.keys import record_key
from tasks_demo.leases.maintenance import clock, number, text
from tasks_demo.leases.process import Process, parse_process

#: Maximum number of keys per SCAN, of SCAN calls, and of records that are read.
AT_ONCE, MOST_CALLS, MOST_RECORDS = 1000, 20, 200


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """The lease record of one operation. ``state``: as in ``maintenance.Record``. ``left``: seconds until the lease ends, by the
    clock of Redis, or 0."""

    operation: str
    state: str
    left: float
    attempts: str
    #: When it was last claimed, derived from the fence (the clock of Redis); None: unknown.
    claimed_at: datetime | None
    holder: Process | None
    #: Length of the stored result in bytes; 0: none.
    result_bytes: int

    @property
    def held(self) -> bool:
        """Whether the lease has not ended."""
        return self.state == "claimed" and self.left > 0


@dataclass(frozen=True, slots=True)
class Listing:
    """A list of lease records. ``truncated``: there may be more."""

    records: list[LeaseRecord] = field(default_factory=list)
    truncated: bool = False


def listed(client: redis.Redis, prefix: str, beginning: str = "") -> Listing:
    """Return the records of operations whose key begins with this text, held ones first. Raises LeaseStoreUnavailable."""
    before = record_key(prefix, "x").partition("{")[0] + "{"
    pattern = f"{_literal(before)}{quote(beginning, safe='')}*"
    try:
        names, truncated = _names(client, pattern)
        now = clock(client)
        pipe = client.pipeline(transaction=False)
        for name in names:
            pipe.hmget(name, "state", "deadline", "fence", "attempt", "who")
            pipe.hstrlen(name, "result")
        answers = pipe.execute(raise_on_error=False)
    except (redis.RedisError, OSError, ValueError) as error:
        raise LeaseStoreUnavailable(
            f"Redis did not list the leases: {described(error)}. Check the server that "
            "TASKS_DEMO_REDIS_URL names, and try again."
        ) from error
    records = [
        _record(_operation(name, before), known, length, now)
        for name, known, length in zip(names, answers[::2], answers[1::2], strict=True)
    ]
    records.sort(key=lambda record: (not record.held, record.state != "claimed", record.operation))
    return Listing(records, truncated)


def _names(client: redis.Redis, pattern: str) -> tuple[list[bytes], bool]:
    cursor, found = 0, dict[bytes, None]()
    for _ in range(MOST_CALLS):
        answer: Any = client.scan(cursor, match=pattern, count=AT_ONCE)
        cursor = int(answer[0])
        found |= dict.fromkeys(answer[1])
        if not cursor or len(found) > MOST_RECORDS:
            break
    return sorted(found)[:MOST_RECORDS], bool(cursor) or len(found) > MOST_RECORDS


def _operation(name: bytes, before: str) -> str:
    return unquote(name.decode("utf-8", "replace")[len(before) : -1])


def _record(operation: str, known: Any, length: Any, now: float) -> LeaseRecord:
    if not isinstance(known, list):  # a key of another type: its reply in the pipeline is an error
        return LeaseRecord(operation, "damaged", 0.0, "", None, None, 0)
    state, deadline, fence, attempt, who = map(text, known)
    left = max(number(deadline) / 1000 - now, 0.0) if state == "claimed" else 0.0
    claimed_at = None
    if 1e15 < number(fence) < 1e16:  # microseconds since the epoch, between 2001 and 2286
        claimed_at = datetime.fromtimestamp(number(fence) / 1e6, UTC)
    bytes_ = length if isinstance(length, int) else 0
    return LeaseRecord(operation, state or "damaged", left, attempt, claimed_at, parse_process(who), bytes_)


def _literal(prefix: str) -> str:
    """Escape the prefix for SCAN's glob pattern."""
    return "".join(f"\\{letter}" if letter in "*?[]^\\" else letter for letter in prefix)
