"""Which task IDs are recorded: all, none, or a share of them that every process picks alike."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import Any

from tasks_demo.core.exceptions import InvalidSetting

#: Names of tasks whose share is remembered: whoever publishes chooses names, too.
MOST_KNOWN = 10_000


class Sampling:
    """Decides by the name of the task, and within a share by the task ID: its publisher, main and pool process agree.

    A task ID that is not recorded has no event at all, whatever becomes of it: half a life would be counted as a wrong one.
    """

    def __init__(self, patterns: Mapping[str, Any]) -> None:
        """``patterns``: TASKS_DEMO_LEDGER_TASKS. Raises InvalidSetting."""
        self._patterns = [(str(pattern), _share(pattern, given)) for pattern, given in patterns.items()]
        self._known: dict[tuple[str, float], float] = {}

    def includes(self, task: str, declared: float, task_id: str) -> bool:
        """``declared``: the share by the task's own attribute ``ledger``."""
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
    """Where a task ID stands from 0 to 1, everywhere the same."""
    digest = blake2b(task_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _share(pattern: str, given: Any) -> float:
    if not isinstance(given, bool | int | float) or not 0 <= given <= 1:
        raise InvalidSetting(
            f"TASKS_DEMO_LEDGER_TASKS has {given!r} for {pattern!r}; it must be True, False or a share between 0 and 1."
        )
    return float(given)
