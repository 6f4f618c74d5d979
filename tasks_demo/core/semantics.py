"""Delivery semantics: what a pattern can promise, in numbers.

Pure: imports neither Django nor Celery nor Redis. A *promise* is a pair of bounds: on the executions of one task ID (starts of
its body) and on the effects of one operation (changes that the outside world saw). There is no exactly-once delivery, only
effectively-once effects.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Semantics(StrEnum):
    """The three delivery semantics."""

    AT_MOST_ONCE = "at-most-once"
    AT_LEAST_ONCE = "at-least-once"
    EFFECTIVELY_ONCE = "effectively-once"


@dataclass(frozen=True, slots=True)
class Bounds:
    """An inclusive range of counts; ``most`` None: unbounded."""

    least: int
    most: int | None

    def __contains__(self, count: int) -> bool:
        return self.least <= count and (self.most is None or count <= self.most)

    def exceeded_by(self, count: int) -> bool:
        """Return whether the count is above the upper bound. A count below the lower bound is not judged: it may still grow."""
        return self.most is not None and count > self.most

    def as_list(self) -> list[int | None]:
        """``[least, most]``, the form used in JSON results."""
        return [self.least, self.most]

    def __str__(self) -> str:
        if self.most is None:
            return f"≥{self.least}" if self.least else "any number"
        if self.least == self.most:
            return f"={self.least}"
        return f"≤{self.most}" if self.least == 0 else f"{self.least}–{self.most}"


@dataclass(frozen=True, slots=True)
class Promise:
    """What a pattern guarantees for a job, once its publication was confirmed and it has ended. A body that fails owes none."""

    semantics: Semantics
    executions: Bounds
    effects: Bounds


AT_MOST_ONCE = Promise(Semantics.AT_MOST_ONCE, Bounds(0, 1), Bounds(0, 1))
AT_LEAST_ONCE = Promise(Semantics.AT_LEAST_ONCE, Bounds(1, None), Bounds(1, None))
# The second task ID of an operation is suppressed, so 0 executions are allowed.
EFFECTIVELY_ONCE = Promise(Semantics.EFFECTIVELY_ONCE, Bounds(0, None), Bounds(1, 1))

BY_NAME = {promise.semantics: promise for promise in (AT_MOST_ONCE, AT_LEAST_ONCE, EFFECTIVELY_ONCE)}

#: The promise of every pattern, by name. Patterns, ledger, lab and docs share this table.
PROMISES: dict[str, Promise] = {
    "acks_early": AT_MOST_ONCE,
    "claim_first": AT_MOST_ONCE,
    "acks_late": AT_LEAST_ONCE,
    "outbox": AT_LEAST_ONCE,
    "dedup_lock": EFFECTIVELY_ONCE,
    "inbox": EFFECTIVELY_ONCE,
}
