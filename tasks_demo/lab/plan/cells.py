"""The plan of a run: its cells, decided before it starts and reproducible from the seed."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks_demo.core.lifecycle import BY_MAIN, Point
from tasks_demo.lab.plan.faults import Fault

#: Where a fault is injected when no point is given: before and after the effect, while the body runs.
WINDOWS = (Point.EFFECT_BEGUN, Point.EFFECT_DONE)
#: The name of the point where each victim of a cell is hit at another point, all points in turn.
MIXED = "mixed"

_BODY = (Point.STARTED, Point.EFFECT_BEGUN, Point.EFFECT_DONE)
#: Points that a demo job's pool process announces, by pattern; those of main are the same everywhere.
_CHILD: dict[str, tuple[Point, ...]] = {
    "acks_early": (*_BODY, Point.RETURNED),
    "claim_first": (Point.CLAIMED, *_BODY, Point.RETURNED),
    "acks_late": (*_BODY, Point.RETURNED),
    "outbox": (*_BODY, Point.RETURNED),
    "dedup_lock": (Point.CLAIMED, *_BODY, Point.COMPLETED, Point.RETURNED),
    "inbox": (*_BODY, Point.COMPLETED, Point.RETURNED),
}
_MAIN = (Point.FETCHED, Point.RECEIVED, Point.ACKING, Point.ACKED)
#: Points at which a fault can be injected, by pattern, in the order of a task's life.
AIMABLE: dict[str, tuple[Point, ...]] = {
    pattern: (*_MAIN[:2], *points, *_MAIN[2:]) for pattern, points in _CHILD.items()
}
#: Limits of a cell.
MOST_TASKS, MOST_WORK_MS, MOST_CLICKS = 1_000_000, 60_000, 10
#: Default number of cells that run side by side; measured on two cores.
LANES = 4


@dataclass(frozen=True, slots=True)
class Cell:
    """One pattern under one fault.

    :param victims: number of a job (from 0) → the point at which it is hit. A fault that has no point ignores the point.
    :param clicks: task IDs under which each operation is published.
    :param keyless: the jobs of dedup_lock do not pass their operation key to the bank.
    """

    pattern: str
    fault: Fault
    point: str
    broker: str
    seed: int
    tasks: int
    work_ms: int
    victims: dict[int, Point] = field(default_factory=dict)
    clicks: int = 1
    keyless: bool = False

    @property
    def name(self) -> str:
        return f"{self.pattern}/{self.fault}" + (f"@{self.point}" if self.point else "")

    @property
    def publisher(self) -> str:
        """How the jobs are published: ``direct`` or ``outbox``.

        The effectively-once patterns need the outbox to keep their promise in the fetch window of Redis.
        """
        closes_window = self.pattern in {"dedup_lock", "inbox"} and self.point in {Point.FETCHED, MIXED}
        return "outbox" if self.pattern == "outbox" or closes_window else "direct"

    def as_dict(self) -> dict[str, Any]:
        """Return the cell as JSON values, victims in order of their job numbers."""
        return {
            "pattern": self.pattern,
            "fault": str(self.fault),
            "point": self.point,
            "broker": self.broker,
            "seed": self.seed,
            "tasks": self.tasks,
            "work_ms": self.work_ms,
            "clicks": self.clicks,
            "keyless": self.keyless,
            "publisher": self.publisher,
            "victims": {str(index): str(point) for index, point in sorted(self.victims.items())},
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Cell:
        """The inverse of ``as_dict``. Raises KeyError, ValueError or TypeError for invalid data."""
        cell = cls(
            pattern=str(data["pattern"]),
            fault=Fault(data["fault"]),
            point=str(data["point"]),
            broker=str(data["broker"]),
            seed=int(data["seed"]),
            tasks=int(data["tasks"]),
            work_ms=int(data["work_ms"]),
            victims={int(index): Point(point) for index, point in dict(data["victims"]).items()},
            clicks=int(data.get("clicks", 1)),
            keyless=bool(data.get("keyless", False)),
        )
        if cell.pattern not in AIMABLE:
            raise ValueError(f"unknown pattern {cell.pattern!r}")
        if cell.broker != "redis":
            raise ValueError(f"unknown broker {cell.broker!r}")
        if not 1 <= cell.tasks <= MOST_TASKS or not 0 <= cell.work_ms <= MOST_WORK_MS:
            raise ValueError(f"tasks {cell.tasks} or work_ms {cell.work_ms} is out of range")
        if not 1 <= cell.clicks <= MOST_CLICKS:
            raise ValueError(f"clicks {cell.clicks} is out of range")
        if not all(0 <= index < cell.tasks for index in cell.victims):
            raise ValueError("a victim is not one of the jobs")
        if cell.fault.aimable and not set(cell.victims.values()) <= set(AIMABLE[cell.pattern]):
            raise ValueError(f"{cell.pattern} never reaches one of the points")
        return cell


def applies(pattern: str, fault: Fault) -> bool:
    """Whether the fault can happen to the pattern's demo job. The inbox job calls no bank, so no response can be lost."""
    return not (pattern == "inbox" and fault is Fault.LOST_RESPONSE)


def points_of(pattern: str, fault: Fault) -> tuple[Point, ...]:
    """The points at which this fault can be injected into this pattern's jobs.

    At the points of the main process no pool process has the job, so only faults of main can be injected there.
    """
    if not fault.aimable:
        return ()
    return tuple(point for point in AIMABLE[pattern] if fault.victim != "child" or point not in BY_MAIN)


def plan(
    *,
    patterns: Sequence[str],
    faults: Sequence[Fault],
    points: Sequence[str],
    broker: str,
    seed: int,
    tasks: int,
    kills: int | None,
    work_ms: int,
    clicks: int = 1,
    keyless: bool = False,
) -> list[Cell]:
    """Return the cells of a run. ``kills`` None: a tenth of the jobs, at least one.

    ``points``: one cell for each, where pattern and fault have it; ``mixed``: one cell with all of them. A fault that cannot
    be injected at a point ignores them.
    """
    cells = []
    for fault in faults:
        for pattern in patterns:
            if not applies(pattern, fault):
                continue
            aims: list[tuple[str, tuple[Point, ...]]] = [("", WINDOWS)]
            if fault is Fault.NONE:
                aims = [("", ())]
            elif fault in {Fault.STOP, Fault.POISON} or not fault.aimable:
                aims = [("", WINDOWS[:1])]
            if points and fault.aimable:
                known = points_of(pattern, fault)
                aims = [(MIXED, known)] if MIXED in points else []
                aims += [(str(point), (point,)) for point in known if point in points]
            for name, windows in aims:
                victims = _victims(f"{seed}:{pattern}:{fault}:{name}", tasks, kills, windows) if windows else {}
                without = keyless and pattern == "dedup_lock"
                cells.append(Cell(pattern, fault, name, broker, seed, tasks, work_ms, victims, clicks, without))
    return cells


def dump_plan(cells: Sequence[Cell], seed: int) -> str:
    """Return the plan as JSON, for ``--plan`` and ``--replay``."""
    return json.dumps({"seed": seed, "plan": [cell.as_dict() for cell in cells]}, indent=2)


def _victims(seed: str, tasks: int, kills: int | None, windows: tuple[Point, ...]) -> dict[int, Point]:
    chance = random.Random(seed)
    count = max(1, tasks // 10) if kills is None else kills
    chosen = chance.sample(range(tasks), count)
    # Every point gets its share, so that a run of a few kills shows both losses and duplicates.
    return {index: windows[number % len(windows)] for number, index in enumerate(chosen)}
