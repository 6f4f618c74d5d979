"""Questions that an experiment answers, and what to choose for each: one click from the question to its plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.utils.http import urlencode

#: Jobs of each cell. A tenth are victims.
TASKS = 20


@dataclass(frozen=True, slots=True)
class Preset:
    """A question, the patterns and faults that answer it, and the points at which a process is killed."""

    question: str
    pattern: tuple[str, ...]
    fault: tuple[str, ...]
    point: tuple[str, ...] = ()

    @property
    def query(self) -> str:
        """The parameters of the form that choose it. They contain no seed, so each run draws a new one."""
        chosen: dict[str, Any] = {"pattern": self.pattern, "fault": self.fault, "point": self.point, "tasks": TASKS}
        return urlencode(chosen, doseq=True)

    def is_chosen(self, chosen: dict[str, Any]) -> bool:
        """Return whether these values of the form are its own, whatever the number of jobs and the seed."""
        return all(set(chosen[name]) == set(getattr(self, name)) for name in ("pattern", "fault", "point"))


PRESETS = (
    Preset(
        "acks_late, killed after the charge: is the customer charged twice?",
        ("acks_late",), ("kill-main",), ("effect_done",),
    ),
    Preset(
        "acks_early, Celery's default, killed before the charge: is the charge lost?",
        ("acks_early",), ("kill-main",), ("started",),
    ),
    Preset(
        "The same two kills: which patterns charge exactly once?",
        ("dedup_lock", "inbox"), ("kill-main",), ("started", "effect_done"),
    ),
    Preset(
        "The bank charges, and its answer is lost: who charges again?",
        ("acks_early", "acks_late", "dedup_lock"), ("lost-response",),
    ),
    Preset(
        "A customer clicks twice: which patterns see that it is one order?",
        ("acks_late", "dedup_lock"), ("double-publish",),
    ),
    Preset(
        "A message kills every worker that runs it: does it end?",
        ("acks_late",), ("poison",),
    ),
    Preset(
        "The web process dies after the commit and before it publishes: is there a job?",
        ("acks_late", "outbox"), ("publisher-crash",),
    ),
)  # fmt: skip
