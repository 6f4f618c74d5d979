"""Selects which task IDs are recorded: all, none, or a share. Every process selects the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import Any

from tasks_demo.core.exceptions import InvalidSetting

#: Maximum number of task names whose share is cached. Publishers choose the names, so their number is unbounded.
MOST_KNOWN = 10_000


class Sampling:
    """Decides by task name and, within a share, by task ID, so the publisher, the main process and the pool process agree.

    A task ID that is not selected has no events at all: counts of an incomplete history would be wrong.
    """

    def __init__(self, patterns: Mapping[str, Any]) -> None:
        """``patterns``: TASKS_DEMO_LEDGER_TASKS. Raises InvalidSetting."""
        self._patterns = [(str(pattern), _share(pattern, given)) for pattern, given in patterns.items()]
        self._known: dict[tuple[str, float], float] = {}

    def includes(self, task: str, declared: float, task_id: str) -> bool:
        """Return whether this task ID is recorded. ``declared``: the share set by the task's ``ledger`` attribute."""
        share = self._known.get((task, declared))
        if share is None:
            matching = (share for pattern, share in self._patterns if fnmatchcase(task, pattern))
            share = next(matching, declared)
            if len(self._known) < MOST_KNOWN:
                self._known[task, declared] = share
        if share >= 1.0 or not task_id:
            return True
        return share > 0.0 and place(task_id) < share


def place(task_id: str) -> float:
    """Map a task ID to a number in [0, 1), the same in every process."""
    digest = blake2b(task_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _share(pattern: str, given: Any) -> float:
    if not isinstance(given, bool | int | float) or not 0 <= given <= 1:
        raise InvalidSetting(
            f"TASKS_DEMO_LEDGER_TASKS has {given!r} for {pattern!r}; it must be True, False or a share between 0 and 1."
        )
    return float(given)
