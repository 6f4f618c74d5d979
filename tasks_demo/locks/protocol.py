"""What a lease store does, and what it answers. Nothing here knows of Redis."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tasks_demo.exceptions import ArgumentsNotJson


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


def digest(task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the task's name and arguments as canonical JSON: the same for a tuple and a list, and any order of keys.

    The name belongs to it: an operation is one task's work, and another task under the same key must not take it for its
    own. 1, 1.0, "1" and true are four different arguments. Raises ArgumentsNotJson for what JSON cannot carry, NaN included.
    Not guaranteed: that a positional and a keyword spelling of one call are the same.
    """
    try:
        # There and back first: keys that are not text sort differently before JSON has made text of them.
        plain = json.loads(json.dumps([task, list(args), dict(kwargs)], allow_nan=False))
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentsNotJson(
            f"The arguments cannot be compared, because they are not plain JSON: {error}. Nothing was run. "
            "Pass text, numbers, true/false, None, lists and dictionaries, for example an id instead of the object."
        ) from error
    return hashlib.sha256(text.encode("ascii")).hexdigest()
