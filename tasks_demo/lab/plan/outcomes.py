"""What a prediction says of a cell, and the groups of patterns that behave alike. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tasks_demo.core.semantics import PROMISES

LOST, DUPLICATED = "lost", "duplicated"
_SEEN = {LOST, DUPLICATED}


@dataclass(frozen=True, slots=True)
class Prediction:
    """``outcome``: whether the pattern's promise holds (``held``, ``broken``), or that chance decides it (``open``); a loss that
    the promise allows does not break it.

    :param required: phenomena that must be seen, or the lab is blind.
    :param excluded: phenomena that must not be seen, even where the promise would allow them.
    """

    outcome: str
    why: str
    required: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.outcome not in {"held", "broken", "open"}:
            raise ValueError(f"{self.outcome!r}: a prediction is held, broken or open")
        if not self.required | self.excluded <= _SEEN or self.required & self.excluded:
            raise ValueError("required and excluded name lost or duplicated, and not the same one")


EARLY = ("acks_early", "claim_first")
LATE = ("acks_late", "outbox")
ONCE = ("dedup_lock", "inbox")


def predict(pattern: str, why: str, *, lost: bool | None = None, twice: bool | None = None) -> Prediction:
    """True: must be seen. False: must not be seen. None: may be seen if the promise allows it."""
    effects = PROMISES[pattern].effects
    required = {what for what, seen in ((LOST, lost), (DUPLICATED, twice)) if seen}
    forbidden = {what for what, count in ((LOST, 0), (DUPLICATED, 2)) if count not in effects}
    excluded = {what for what, seen in ((LOST, lost), (DUPLICATED, twice)) if seen is False} | (forbidden - required)
    return Prediction("broken" if required & forbidden else "held", why, frozenset(required), frozenset(excluded))
