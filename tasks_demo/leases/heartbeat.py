"""Renew the leases held by this process, each after a third of its duration, in one thread.

Does **not** interrupt a task whose lease is lost: the task notices when it calls ``check()``, and the fence guards what it writes
before that. Does not notice that the machine was suspended, because that stops the monotonic clock, too.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from types import TracebackType
from typing import Final, Self

from tasks_demo.core.exceptions import LeaseLost, LeaseStoreUnavailable
from tasks_demo.core.lifecycle import current, job_fields
from tasks_demo.leases.protocol import Claimed, LeaseStore

logger = logging.getLogger(__name__)

# Pause after a failed renewal, as a fraction of the lease: a dozen attempts fit into the last two thirds.
_RETRY_PART: Final = 1 / 20


class Lease:
    """A held lease, made by ``hold``. Call ``check()`` between steps of long work; send ``fence`` with each write.

    Once lost, a lease stays lost, even if the store would still renew it.
    """

    def __init__(self, store: LeaseStore, claimed: Claimed, cap_seconds: float) -> None:
        self.claimed = claimed
        self.store = store
        #: True from a failed renewal until one succeeds.
        self.failing = False
        self._deadline = claimed.deadline
        # Counted from when the claim was sent, like the deadline.
        self._cap_at = claimed.deadline - store.lease_seconds + cap_seconds
        self._cap_seconds = cap_seconds
        self._lost = ""
        self._pid = os.getpid()
        self._subject = current()  # not available in the heartbeat's thread
        self.due = self._third()

    @property
    def fence(self) -> int:
        """The fencing token: a receiver that remembers the highest one can refuse a stale holder's writes."""
        return self.claimed.fence

    @property
    def lost(self) -> bool:
        """Whether another worker may hold the lease by now; once True, always True."""
        now = time.monotonic()
        if not self._lost:
            if os.getpid() != self._pid:
                self._lost = f"process {self._pid} holds it, and this is a fork of that process"
            elif now >= self._deadline:
                self._lost = "it was not renewed before it ended"
            elif now >= self._cap_at:
                self._lost = f"it reached its cap of {self._cap_seconds:g} s (TASKS_DEMO_LEASE_CAP_SECONDS)"
        return bool(self._lost)

    @property
    def capped(self) -> bool:
        """Whether the lease has reached its cap: the body has run for the maximum time."""
        return time.monotonic() >= self._cap_at

    def check(self) -> None:
        """Raise LeaseLost if another worker may hold the lease by now."""
        if self.lost:
            raise LeaseLost(
                f"The lease on {self.claimed.operation!r} is lost: {self._lost}. Another worker may hold it. "
                "Stop, and write nothing more; later writes with its fence are refused."
            )

    def renew(self) -> None:
        """Renew once. Never raises: a failure is retried until the deadline, a refusal is final."""
        if self.lost:
            return
        try:
            deadline = self.store.renew(self.claimed)
        except LeaseStoreUnavailable as error:
            self.failing = True
            self.due = time.monotonic() + self.store.lease_seconds * _RETRY_PART
            logger.warning(
                "%s", error, extra=job_fields(self._subject, operation=self.claimed.operation, fence=self.fence)
            )
        except Exception:
            logger.exception(
                "Renewing the lease on %r failed unexpectedly.",
                self.claimed.operation,
                extra=job_fields(self._subject, operation=self.claimed.operation, fence=self.fence),
            )
            self._lost = "renewing it failed unexpectedly, see the log"
        else:
            self.failing = False
            if deadline is None:
                self._lost = "another claim took it over, or its record was removed"
            else:
                self._deadline = deadline
                self.due = self._third()

    def close(self) -> None:
        """Stop renewing. Does not end the lease; ``complete`` and ``release`` do."""
        _heartbeat.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _third(self) -> float:
        return self._deadline - self.store.lease_seconds * 2 / 3


class NoLeaseNeeded(Lease):
    """The lease of a body that is called as a function: nothing is held, so nothing can be lost."""

    def __init__(self) -> None:
        self.claimed = Claimed("", "", 0, 0, math.inf)
        self.failing = False

    @property
    def lost(self) -> bool:
        """Never."""
        return False

    @property
    def capped(self) -> bool:
        """Never."""
        return False

    def renew(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Heartbeat:
    """Renews leases in one thread. A forked child starts without leases: they belong to its parent."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start without leases, and with a new lock: in a forked child a thread of the parent may hold the old one."""
        self._held: set[Lease] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wakes_at = -math.inf

    def add(self, lease: Lease) -> None:
        """Start renewing."""
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)
                self._thread.start()
            self._held.add(lease)
            # Not woken if it wakes in time anyway, so that short tasks cost no thread switch.
            if lease.due < self._wakes_at:
                self._changed.notify()

    def remove(self, lease: Lease) -> None:
        """Stop renewing. A renewal in progress may still finish; after complete or release it has no effect."""
        with self._changed:
            self._held.discard(lease)

    def _beat(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                lease = self._most_urgent(now)
                if lease is None:
                    self._wakes_at = min((held.due for held in self._held), default=math.inf)
                    self._changed.wait(None if self._wakes_at == math.inf else self._wakes_at - now)
                    self._wakes_at = -math.inf
                    continue
            # Outside the lock: a slow Redis must not delay the start or end of tasks.
            lease.renew()
            if lease.lost:
                self.remove(lease)

    def _most_urgent(self, now: float) -> Lease | None:
        """Return the next lease to renew. Stores that fail come last, so that the others wait for one timeout at most."""
        failing = {id(lease.store) for lease in self._held if lease.failing}
        due = (lease for lease in self._held if lease.due <= now)
        return min(due, key=lambda lease: (id(lease.store) in failing, lease.due), default=None)


_heartbeat = Heartbeat()
os.register_at_fork(after_in_child=_heartbeat.forget)


def hold(store: LeaseStore, claimed: Claimed, cap_seconds: float) -> Lease:
    """Renew the lease until ``close()``, the end of the ``with`` block, or ``cap_seconds`` after the claim.

    The cap limits a hung task: after it ``check()`` raises, and the lease expires in the store at most one lease duration later.
    """
    lease = Lease(store, claimed, cap_seconds)
    _heartbeat.add(lease)
    return lease
