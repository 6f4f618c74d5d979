"""The plan of a run: its cells, decided before it starts and reproducible from the seed."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks_demo.core.lifecycle import BY_MAIN, Point
from tasks_demo.core.semantics import PROMISES, Promise, Semantics
from tasks_demo.lab import controls
from tasks_demo.lab.plan.brokers import KINDS, REDIS
from tasks_demo.lab.plan.combined import Combined, parse, parts
from tasks_demo.lab.plan.disturbed_requests import HELD_AT, why_never
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.project_task import BODY, ProjectTask

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
#: The same for a control, which announces what a job without a claim does.
_PLAIN = AIMABLE["acks_late"]
_UNFIT = re.compile(r"[^\w.-]")
#: Limits of a cell.
MOST_TASKS, MOST_WORK_MS, MOST_CLICKS, MOST_LOAD = 1_000_000, 60_000, 10, 100_000
#: Least work of a job during an outage, so that jobs are left for all of it.
OUTAGE_WORK_MS = 150
#: Default number of cells that run side by side; measured on two cores.
LANES = 4


@dataclass(frozen=True, slots=True)
class Cell:
    """One pattern, or one task of the project, under one fault.

    :param pattern: the pattern; the name of a task of the project, which is then ``project_task``.
    :param victims: number of a job (from 0) → the point at which it is hit. A fault that has no point ignores the point. Under
        load a main process is killed when this job is published.
    :param clicks: task IDs under which each operation is published.
    :param keyless: the jobs of dedup_lock do not pass their operation key to the bank.
    :param also: a second fault, at the same jobs; NONE: there is none.
    :param load: jobs that are published per second, at most; 0: one after the other, as fast as it goes.
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
    project_task: ProjectTask | None = None
    load: int = 0
    also: Fault = Fault.NONE

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Its fault, and the second one if it has one."""
        return (self.fault, self.also) if self.also is not Fault.NONE else (self.fault,)

    @property
    def fault_name(self) -> str:
        """What ``--fault`` calls it."""
        return str(Combined(self.fault, self.also) if len(self.faults) > 1 else self.fault)

    @property
    def name(self) -> str:
        """Its name in the run, of characters that fit into the name of a file or a worker."""
        on = "" if self.broker == REDIS.name else f".{self.broker}"
        return (
            f"{_UNFIT.sub('_', self.pattern)}/{'-and-'.join(self.faults)}"
            + (f"@{self.point}" if self.point else "")
            + on
        )

    @property
    def publisher(self) -> str:
        """How the jobs are published: ``direct`` or ``outbox``.

        The effectively-once patterns need the outbox to keep their promise in the fetch window of Redis.
        """
        if self.project_task is not None:
            return "outbox" if self.project_task.pattern == "outbox" else "direct"
        loses = KINDS.get(self.broker, REDIS).loses_fetched
        may_fetch = self.point in {Point.FETCHED, MIXED} or self.fault is Fault.LOAD
        closes_window = loses and may_fetch and self.pattern in {"dedup_lock", "inbox"}
        return "outbox" if self.pattern == "outbox" or closes_window else "direct"

    @property
    def early(self) -> bool:
        """Whether the message is acknowledged before the body runs."""
        if self.project_task is not None:
            return self.project_task.early
        control = controls.find(self.pattern)
        return control.early if control else PROMISES[self.pattern].semantics is Semantics.AT_MOST_ONCE

    @property
    def promise(self) -> Promise:
        """What it is held to."""
        return self.project_task.promise if self.project_task else promise_of(self.pattern)

    @property
    def windows(self) -> tuple[Point, ...]:
        """Where its victims are hit when no point is given."""
        return WINDOWS if self.project_task is None else BODY

    def as_dict(self) -> dict[str, Any]:
        """Return the cell as JSON values, victims in order of their job numbers."""
        return {
            **({"own": self.project_task.as_dict()} if self.project_task else {}),
            **({"load": self.load} if self.load else {}),
            "pattern": self.pattern,
            "fault": self.fault_name,
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
        fault, also = parts(parse(data["fault"]))
        cell = cls(
            pattern=str(data["pattern"]),
            fault=fault,
            also=also,
            point=str(data["point"]),
            broker=str(data["broker"]),
            seed=int(data["seed"]),
            tasks=int(data["tasks"]),
            work_ms=int(data["work_ms"]),
            victims={int(index): Point(point) for index, point in dict(data["victims"]).items()},
            clicks=int(data.get("clicks", 1)),
            keyless=bool(data.get("keyless", False)),
            project_task=ProjectTask.from_dict(data["own"]) if "own" in data else None,
            load=int(data.get("load", 0)),
        )
        if cell.project_task is None and cell.pattern not in AIMABLE and controls.find(cell.pattern) is None:
            raise ValueError(f"unknown pattern {cell.pattern!r}")
        if cell.broker not in KINDS:
            raise ValueError(f"unknown broker {cell.broker!r}")
        if not 1 <= cell.tasks <= MOST_TASKS or not 0 <= cell.work_ms <= MOST_WORK_MS:
            raise ValueError(f"tasks {cell.tasks} or work_ms {cell.work_ms} is out of range")
        if not 1 <= cell.clicks <= MOST_CLICKS:
            raise ValueError(f"clicks {cell.clicks} is out of range")
        if not 0 <= cell.load <= MOST_LOAD or bool(cell.load) != (cell.fault is Fault.LOAD):
            raise ValueError(f"a load of {cell.load} and the fault {cell.fault} do not go together")
        if not all(0 <= index < cell.tasks for index in cell.victims):
            raise ValueError("a victim is not one of the jobs")
        if not all(applies(cell.pattern, one, cell.project_task) for one in cell.faults):
            raise ValueError(f"{cell.fault_name} cannot happen to {cell.pattern}")
        if cell.fault.aimable and not {*cell.victims.values()} <= {
            *points_of(cell.pattern, cell.fault, cell.project_task)
        }:
            raise ValueError(f"{cell.pattern} never reaches one of the points")
        return cell


def applies(pattern: str, fault: Fault, project_task: ProjectTask | None = None) -> bool:
    """Whether the fault can happen to the pattern's demo job, or to ``project_task``."""
    return fault in project_task.faults if project_task is not None else not why_never(pattern, fault)


def why_not_on(broker: str, fault: Fault) -> str:
    """Why the fault cannot be injected on this kind of broker; empty if it can."""
    kind = KINDS[broker]
    if not fault.of_broker or (kind.family == "rabbitmq" if fault is Fault.BROKER_KILL else kind.embedded):
        return ""
    if kind.embedded:
        return "on Redis it matters whether there is an append-only file: write broker-kill-always, -everysec or -off"
    if kind.on_redis:
        return "the lab kills only servers that it starts"
    return "it is a fault of Redis: write broker-kill" if fault.appendonly else "it is a fault of Redis"


def points_of(pattern: str, fault: Fault, project_task: ProjectTask | None = None) -> tuple[Point, ...]:
    """The points at which this fault can be injected into this pattern's jobs, or into those of a task of the project.

    At the points of the main process no pool process has the job, so only faults of main can be injected there.
    """
    if not fault.aimable:
        return ()
    known = project_task.points if project_task else AIMABLE.get(pattern, _PLAIN)
    return tuple(point for point in known if fault.victim != "child" or point not in BY_MAIN)


def plan(
    *,
    patterns: Sequence[str],
    faults: Sequence[Fault | Combined],
    points: Sequence[str],
    brokers: Sequence[str],
    seed: int,
    tasks: int,
    kills: int | None,
    work_ms: int,
    clicks: int = 1,
    keyless: bool = False,
    project_task: ProjectTask | None = None,
    load: int = 0,
) -> list[Cell]:
    """Return the cells of a run, of the patterns or of ``project_task``. ``kills`` None: a tenth of the jobs, at least one.
    ``load``: the rate of cells under load, and of no others.

    ``points``: one cell for each, where pattern and fault have it; ``mixed``: one cell with all of them. A fault that cannot
    be injected at a point ignores them.
    """
    cells = []
    usual = BODY if project_task else WINDOWS
    for chosen in faults:
        fault, also = parts(chosen)
        for pattern in patterns:
            possible = all(applies(pattern, one, project_task) for one in (fault, also))
            if not possible or bool(load) != (fault is Fault.LOAD):
                continue
            aims: list[tuple[str, tuple[Point, ...]]] = [("", usual)]
            if fault is Fault.NONE:
                aims = [("", ())]
            elif fault in {Fault.STOP, Fault.POISON} or not fault.aimable:
                aims = [("", (HELD_AT.get(fault.disturbed_request, usual[0]),))]
            if points and fault.aimable:
                known = points_of(pattern, fault, project_task)
                aims = [(MIXED, known)] if MIXED in points else []
                aims += [(str(point), (point,)) for point in known if point in points]
            for name, windows in aims:
                first = 1 if fault is Fault.HOSTILE else 0
                last = tasks - tasks // 10 if load else tasks  # the last kill, too, while jobs flow
                victims = _victims(f"{seed}:{pattern}:{chosen}:{name}", last, kills, windows, first) if windows else {}
                if fault.once_per_cell:
                    victims = {0: windows[0]} if project_task else dict(list(victims.items())[:1])
                work = max(work_ms, OUTAGE_WORK_MS) if fault.among_jobs and not project_task else work_ms
                options = (clicks, keyless and pattern == "dedup_lock", project_task, load, also)
                cells += [
                    Cell(pattern, fault, name, broker, seed, tasks, work, victims, *options)
                    for broker in brokers
                    if not why_not_on(broker, fault)
                ]
    return cells


def plan_controls(names: Sequence[str], *, broker: str, seed: int, tasks: int, kills: int, work_ms: int) -> list[Cell]:
    """Return the cells in which these controls say what must be seen. Raises ImportError if a library is missing."""
    cells = []
    for name in names:
        found = controls.find(name)
        for exposure in found.exposures if found else ():
            fault, point = Fault(exposure.fault), exposure.point
            windows = () if fault is Fault.NONE else (Point(point),) if point else WINDOWS[:1]
            victims = _victims(f"{seed}:{name}:{fault}:{point}", tasks, kills, windows) if windows else {}
            cells.append(Cell(name, fault, point, broker, seed, tasks, work_ms, victims))
    return cells


def promise_of(pattern: str) -> Promise:
    """The promise of a pattern, or what the author of a control believes. Raises KeyError."""
    found = controls.find(pattern)
    return found.believed if found else PROMISES[pattern]


def dump_plan(cells: Sequence[Cell], seed: int) -> str:
    """Return the plan as JSON, for ``--plan`` and ``--replay``."""
    return json.dumps({"seed": seed, "plan": [cell.as_dict() for cell in cells]}, indent=2)


def _victims(seed: str, tasks: int, kills: int | None, windows: tuple[Point, ...], first: int = 0) -> dict[int, Point]:
    """``first``: 1 where the first job cannot be a victim, because a victim needs a job before it."""
    chance = random.Random(seed)
    count = max(1, tasks // 10) if kills is None else kills
    chosen = chance.sample(range(first, tasks), min(count, tasks - first))
    # Every point gets its share, so that a run of a few kills shows both losses and duplicates.
    return {index: windows[number % len(windows)] for number, index in enumerate(chosen)}
