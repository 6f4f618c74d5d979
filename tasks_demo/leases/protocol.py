"""What a lease store does, and what it answers. Nothing here knows of Redis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tasks_demo.core.digest import digest as digest  # what a claim is compared by


@dataclass(frozen=True, slots=True)
class Claimed:
    """The lease is ours.

    ``owner`` is the random token of this claim: whoever has it acts as the holder, so it is never logged. ``fence``
    is greater than that of any earlier claim on the operation. ``attempt`` counts the claims, from 1. ``deadline`` is
    in seconds of ``time.monotonic()`` of this process, counted from before the claim was sent: it is never later
    than the end of the lease in the store, as far as the two clocks run at the same speed and the machine is not
    suspended.
    """

    operation: str
    owner: str
    fence: int
    attempt: int
    deadline: float


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody else holds the lease; it ends in this many seconds unless it is renewed.

    ``fence`` names that claim, and ``who`` made it (see ``holder``; empty: nobody said).
    """

    seconds_left: float
    fence: int = 0
    who: str = ""


@dataclass(frozen=True, slots=True)
class Completed:
    """The operation was done before, by ``who``. ``result`` is JSON text, or None when none was stored."""

    result: str | None
    who: str = ""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The operation key was used before by another task or with other arguments."""


Reply = Claimed | Held | Completed | Mismatch


class LeaseStore(Protocol):
    """One record per operation. Every method raises LockStoreUnavailable when it is not known what the store did."""

    @property
    def lease_seconds(self) -> float:
        """How long a claim or a renewal lasts."""

    def claim(self, operation: str, digest: str, who: str = "", gone: int | None = None) -> Reply:
        """Ask for the lease, under a token of its own: a second claim by the same process gets Held.

        ``gone``: the fence of a claim (from Held) whose holder is known to have ended; it is taken over at once, if it is still
        that claim which holds the lease.
        """

    def renew(self, claimed: Claimed) -> float | None:
        """The new deadline (as in Claimed), or None when the claim does not hold the lease any more."""

    def complete(self, claimed: Claimed, result: str | None) -> bool:
        """Mark the operation as done. False: somebody else took it over, and nothing was stored."""

    def release(self, claimed: Claimed) -> bool:
        """Give the lease back without completing. False: it was not ours any more, and nothing was changed."""
