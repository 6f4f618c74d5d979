"""The lease store in the memory of one process, for eager mode and tests: ``TASKS_DEMO_REDIS_URL = "memory://"``.

Within one process it behaves like the Redis store: the same contract tests run against both. Does **not** guarantee anything
between processes: each has its own memory, and a forked child a copy of its parent's. So it is refused where workers run.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tasks_demo.leases.keys import check_durations, record_key
from tasks_demo.leases.protocol import Claimed, Completed, Held, Mismatch, Reply

#: The address that stands for the memory of the process.
URL: Final = "memory://"


@dataclass
class Record:
    """One operation. ``holder``: the claim that holds the lease or completed the operation; None: released."""

    digest: str
    attempt: int = 0
    holder: Claimed | None = None
    completed: bool = False
    result: str | None = None
    who: str = ""
    #: End of the lease, and of the record, in seconds of the memory's clock.
    held_until: float = 0.0
    kept_until: float = 0.0


class Memory:
    """Replaces Redis: records, and a clock that a test can advance. Callers must hold ``lock``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty. ``clock`` returns monotonic seconds, for the end of leases and retention and the deadlines of claims."""
        self.lock = threading.RLock()
        self._clock = clock
        self._ahead = 0.0
        self._records: dict[str, Record] = {}
        self._fence = 0

    def now(self) -> float:
        """Return the clock's time plus what was skipped."""
        return self._clock() + self._ahead

    def skip(self, seconds: float) -> None:
        """Advance the store's time, so that leases and retentions end. Holders read the clock itself and do not notice."""
        self._ahead += seconds

    def by_the_clock(self, moment: float) -> float:
        """Convert the store's time to the clock's, which the holder of a lease reads."""
        return moment - self._ahead

    def get(self, key: str) -> Record | None:
        """Return the record, unless its retention has ended."""
        record = self._records.get(key)
        if record is not None and self.now() >= record.kept_until:
            del self._records[key]
            return None
        return record

    def put(self, key: str, record: Record) -> None:
        """Store a record."""
        self._records[key] = record

    def forget(self, prefix: str) -> None:
        """Remove the records whose key starts with ``prefix``."""
        with self.lock:
            self._records = {key: record for key, record in self._records.items() if not key.startswith(prefix)}

    def next_fence(self) -> int:
        """Return a fence greater than any before: from the wall clock, as on Redis, because receivers may remember the fences of
        an earlier process."""
        self._fence = max(self._fence + 1, time.time_ns() // 1000)
        return self._fence


#: The memory behind ``memory://`` in this process.
MEMORY: Final = Memory()


class MemoryLeaseStore:
    """A LeaseStore on a Memory. Raises InvalidSetting as RedisLeaseStore does, and never LeaseStoreUnavailable."""

    def __init__(self, memory: Memory, prefix: str, lease_seconds: float, retention_seconds: float) -> None:
        check_durations(prefix, lease_seconds, retention_seconds)
        self.memory = memory
        self._prefix = prefix
        self.lease_seconds = lease_seconds
        self._retention_seconds = retention_seconds

    def claim(self, operation: str, digest: str, who: str = "", gone: int | None = None) -> Reply:
        """Claim the lease; take over the claim with the fence ``gone``, if given, at once."""
        key = record_key(self._prefix, operation)
        with self.memory.lock:
            now = self.memory.now()
            record = self.memory.get(key) or Record(digest)
            if record.digest != digest:
                return Mismatch()
            if record.completed:
                return Completed(record.result, record.who)
            if record.holder is not None and record.holder.fence != gone and now < record.held_until:
                # As on Redis, rounded up.
                return Held(record.held_until - now + 0.001, record.holder.fence, record.who)
            record.who = who
            record.attempt += 1
            record.held_until = now + self.lease_seconds
            deadline = self.memory.by_the_clock(record.held_until)
            record.holder = Claimed(
                operation, secrets.token_hex(16), self.memory.next_fence(), record.attempt, deadline
            )
            self._keep(key, record)
            return record.holder

    def renew(self, claimed: Claimed) -> float | None:
        """Return the new deadline, or None if the lease is lost. An expired lease is renewed if there was no claim since."""
        with self.memory.lock:
            key, record = self._held_by(claimed)
            if record is None or record.completed:
                return None
            record.held_until = self.memory.now() + self.lease_seconds
            self._keep(key, record)
            return self.memory.by_the_clock(record.held_until)

    def complete(self, claimed: Claimed, result: str | None) -> bool:
        """Mark the operation completed and store ``result``; an earlier result stays. False: another claim took it over."""
        with self.memory.lock:
            key, record = self._held_by(claimed)
            if record is None:
                return False
            if not record.completed:
                record.completed, record.result = True, result
                self._keep(key, record)
            return True

    def release(self, claimed: Claimed) -> bool:
        """End the lease. False: not held any more."""
        with self.memory.lock:
            key, record = self._held_by(claimed)
            if record is None or record.completed:
                return False
            record.holder = None
            self._keep(key, record)
            return True

    def _held_by(self, claimed: Claimed) -> tuple[str, Record | None]:
        key = record_key(self._prefix, claimed.operation)
        record = self.memory.get(key)
        holder = None if record is None else record.holder
        ours = holder is not None and (holder.owner, holder.fence) == (claimed.owner, claimed.fence)
        return key, record if ours else None

    def _keep(self, key: str, record: Record) -> None:
        record.kept_until = self.memory.now() + self._retention_seconds
        self.memory.put(key, record)
