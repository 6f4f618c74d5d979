"""The overview's table: a row per pattern and per task name, each number with the link to exactly those task IDs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.utils.http import urlencode

from tasks_demo.core.semantics import PROMISES
from tasks_demo.dashboard.filters import NO_PATTERN, PARAMETERS
from tasks_demo.dashboard.labels import promise
from tasks_demo.ledger.rollups import COUNTED

#: Maximum number of task names shown, the most frequent.
MOST_TASKS = 100

#: Column of a rollup → heading, short heading within its group, parameters of the list, whether it deserves attention.
COLUMNS: dict[str, tuple[str, str, dict[str, str], bool]] = {
    "task_ids": ("", "task IDs", {}, False),
    "published": ("", "published", {"published": "1"}, False),
    "executions_0": ("executions", "0", {"executions": "0"}, False),
    "executions_1": ("executions", "1", {"executions": "1"}, False),
    "executions_2": ("executions", "2+", {"executions": "2+"}, False),
    "effects_0": ("effects", "0", {"effects": "0"}, False),
    "effects_1": ("effects", "1", {"effects": "1"}, False),
    "effects_2": ("effects", "2+", {"effects": "2+"}, False),
    "suppressed": ("", "suppressed", {"suppressed": "1"}, False),
    "deferred": ("", "deferred", {"deferred": "1"}, False),
    "waiting": ("", "waiting", {"outcome": "waiting"}, False),
    "running": ("", "running", {"outcome": "running"}, False),
    "failed": ("", "failed", {"outcome": "failed"}, True),
    "parked": ("", "parked", {"outcome": "parked"}, True),
    "lost": ("", "lost", {"verdict": "lost"}, True),
    "broken": ("", "promise broken", {"promise": "broken"}, True),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One number. ``query`` selects its task IDs in the list; empty if the list cannot. ``unknown``: nobody counts it."""

    label: str
    value: int
    query: str
    needs_attention: bool
    unknown: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One pattern, or one task of it (``task`` not None)."""

    pattern: str
    task: str | None
    promise: str
    cells: list[Cell]


def rows(totals: Iterable[dict[str, Any]]) -> tuple[list[Row], int]:
    """Arrange the totals of tasks and patterns. Returns the rows, and how many task names are left out."""
    by_pattern: dict[str, list[dict[str, Any]]] = {}
    for total in totals:
        by_pattern.setdefault(total["pattern"], []).append(total)
    names = sorted((total for some in by_pattern.values() for total in some), key=lambda total: -total["task_ids"])
    shown = {(total["pattern"], total["task"]) for total in names[:MOST_TASKS]}
    ours = list(PROMISES)
    found: list[Row] = []
    for pattern in sorted(by_pattern, key=lambda name: (ours.index(name) if name in ours else len(ours), name)):
        some = by_pattern[pattern]
        summed = {name: sum(total[name] for total in some) for name in COUNTED}
        found.append(_row(pattern, None, summed))
        found += [_row(pattern, total["task"], total) for total in some if (pattern, total["task"]) in shown]
    return found, max(0, len(names) - MOST_TASKS)


def _row(pattern: str, task: str | None, counts: dict[str, Any]) -> Row:
    selected = {"pattern": pattern or NO_PATTERN, **({"task": task} if task else {})}
    cells = [
        Cell(
            label=f"{group} {short}".strip(),
            value=counts[name],
            query="" if task == "" or not PARAMETERS.issuperset(parameters) else urlencode({**selected, **parameters}),
            needs_attention=needs_attention and counts[name] > 0,
            unknown=name == "effects_0" and not counts["booked"] and counts[name] == counts["task_ids"],
        )
        for name, (group, short, parameters, needs_attention) in COLUMNS.items()
    ]
    return Row(pattern, task, promise(pattern) if task is None else "", cells)
