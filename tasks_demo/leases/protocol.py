"""The lease store protocol and its replies, independent of Redis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Claimed:
    """The claim succeeded: this process holds the lease.

    ``owner`` is the random token of this claim. Whoever has it can act as the holder, so it is never logged. ``fence`` is greater
    than that of any earlier claim on the operation. ``attempt`` counts the claims, from 1. ``deadline`` is in seconds of this
    process's ``time.monotonic()``, counted from before the claim was sent: it is never later than the end of the lease in the
    store, as long as both clocks run at the same speed and the machine is not suspended.
    """

    operation: str
    owner: str
    fence: int
    attempt: int
    deadline: float


@dataclass(frozen=True, slots=True)
class Held:
    """Another claim holds the lease, which ends in this many seconds unless it is renewed.

    ``fence`` identifies that claim; ``who`` is the process that made it (see ``process``; empty: unknown).
    """

    seconds_left: float
    fence: int = 0
    who: str = ""


@dataclass(frozen=True, slots=True)
class Completed:
    """The operation is completed, by ``who``. ``result`` is JSON text, or None if none was stored."""

    result: str | None
    who: str = ""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The operation key was already used by another task or with other arguments."""


Reply = Claimed | Held | Completed | Mismatch


class LeaseStore(Protocol):
    """Keeps one record per operation. Every method raises LeaseStoreUnavailable if it is unknown what the store did."""

    #: How long a claim or a renewal lasts.
    lease_seconds: float

    def claim(self, operation: str, digest: str, who: str = "", gone: int | None = None) -> Reply:
        """Claim the lease, with a new token: a second claim by the same process gets Held.

        ``gone``: the fence of a claim (from Held) whose process is known to have ended. If that claim still holds the lease, it
        is taken over at once.
        """

    def renew(self, claimed: Claimed) -> float | None:
        """Extend the lease. Returns the new deadline (as in Claimed), or None if the claim no longer holds the lease."""

    def complete(self, claimed: Claimed, result: str | None) -> bool:
        """Mark the operation completed. False: another claim took it over, and nothing was stored."""

    def release(self, claimed: Claimed) -> bool:
        """End the lease without completing. False: it was not held any more, and nothing was changed."""
