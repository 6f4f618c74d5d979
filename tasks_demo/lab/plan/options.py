"""Turns the options of ``manage.py experiment`` into cells. An option that would have no effect is refused, never ignored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tasks_demo.core.semantics import PROMISES
from tasks_demo.lab.plan.cells import AIMABLE, MIXED, Cell, applies, plan, points_of
from tasks_demo.lab.plan.faults import Fault

PATTERNS = list(PROMISES)
FAULTS = [str(fault) for fault in Fault]
POINTS = list(dict.fromkeys(str(point) for points in AIMABLE.values() for point in points))
DEFAULT_FAULTS = [str(Fault.NONE), str(Fault.KILL_CHILD), str(Fault.KILL_MAIN)]
AIMED_FAULTS = DEFAULT_FAULTS[1:]
TASKS = 100
#: Options that have no effect beside ``--replay``, and beside ``--plan``.
OF_A_PLAN = ("pattern", "fault", "point", "tasks", "kills", "work", "clicks", "keyless", "seed")
OF_A_RUN = ("broker", "lanes", "json", "junit", "markdown", "html", "events", "no_progress", "run")


class Refused(ValueError):
    """The options contradict each other, or one of them would have no effect; the message says which and why."""


def cells_for(options: Mapping[str, Any], seed: int) -> tuple[list[Cell], list[str]]:
    """Return the cells, and a sentence for each named combination that was left out. Raises Refused."""
    patterns, all_patterns = _chosen("--pattern", options["pattern"], PATTERNS, PATTERNS)
    points, all_points = _chosen("--point", options["point"], POINTS, [])
    usual = AIMED_FAULTS if points else DEFAULT_FAULTS
    faults, all_faults = _chosen("--fault", options["fault"], FAULTS, usual)
    tasks, kills = options["tasks"] or TASKS, options["kills"]
    if (kills or 0) > tasks:
        raise Refused(f"--kills {kills} is more than --tasks {tasks}: each job is hit at most once.")
    cells = plan(
        patterns=patterns,
        faults=[Fault(name) for name in faults],
        points=points,
        broker="redis",
        seed=seed,
        tasks=tasks,
        kills=kills,
        work_ms=options["work"] or 0,
        clicks=options["clicks"] or 1,
        keyless=options["keyless"],
    )
    impossible = {
        (pattern, fault, point): why_not(pattern, Fault(fault), point)
        for pattern in patterns
        for fault in faults
        for point in points or [""]
    }
    if not cells:
        raise Refused(f"Nothing to run: {_said(why for why, _ in impossible.values())}.")
    named: list[tuple[str, Sequence[str], Callable[[Cell], str]]] = [
        ("--pattern", [] if all_patterns else patterns, lambda cell: cell.pattern),
        ("--fault", [] if all_faults else faults, lambda cell: str(cell.fault)),
        ("--point", [] if all_points else points, lambda cell: cell.point),
    ]
    for place, (option, values, of) in enumerate(named):
        for value in values:
            if not any(of(cell) == value for cell in cells):
                why = _said(why for combination, (why, _) in impossible.items() if combination[place] == value)
                raise Refused(f"{option} {value} would do nothing here: {why}. Leave it out.")
    if points and not any(cell.point for cell in cells):
        raise Refused(f"--point would do nothing here: {_said(why for why, _ in impossible.values())}. Leave it out.")
    if options["keyless"] and not any(cell.keyless for cell in cells):
        raise Refused("--keyless would do nothing here: only the jobs of dedup_lock pass a key to the bank.")
    if kills and not any(cell.victims for cell in cells):
        raise Refused("--kills would do nothing here: the fault none has no victims.")
    missed = {why for why, because in impossible.values() if because and all(named[place][1] for place in because)}
    return cells, [f"Left out: {why}." for why in sorted(missed)]


def beside_replay(options: Mapping[str, Any]) -> None:
    """Raise Refused for an option that the replayed plan decides."""
    if given := _given(options, OF_A_PLAN):
        raise Refused(f"--replay brings its own plan: leave {given} out.")


def beside_plan(options: Mapping[str, Any]) -> None:
    """Raise Refused for an option that is about a run, of which ``--plan`` makes none."""
    if given := _given(options, OF_A_RUN):
        raise Refused(f"--plan runs nothing, so {given} would do nothing: leave it out.")


def _given(options: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(
        f"--{name.replace('_', '-')}" for name in names if options[name] is not None and options[name] is not False
    )


def _chosen(option: str, given: list[str] | None, everything: list[str], default: list[str]) -> tuple[list[str], bool]:
    """The values that were named, without repetitions, and whether that is all or the default."""
    named = list(dict.fromkeys(given or ()))
    if "all" not in named:
        return (named, False) if named else (default, True)
    more = [name for name in named if name not in ("all", MIXED)]
    if more:
        raise Refused(f"{option} all includes everything: leave {', '.join(more)} out.")
    return everything + [MIXED] * (MIXED in named), True


def why_not(pattern: str, fault: Fault, point: str) -> tuple[str, tuple[int, ...]]:
    """Why there is no such cell ("" if there is one), and which of the three do not go together."""
    if not applies(pattern, fault):
        return f"the job of {pattern} calls no bank, so {fault} cannot happen to it", (0, 1)
    if point and not fault.aimable:
        return f"{fault} cannot be injected at a point", ()  # its cell runs all the same
    if point in ("", MIXED):
        return "", ()
    if point not in AIMABLE[pattern]:
        return f"a job of {pattern} never reaches {point}", (0, 2)
    if point not in points_of(pattern, fault):
        return f"at {point} no pool process has the job, so {fault} cannot be injected there", (1, 2)
    return "", ()


def _said(reasons: Iterable[str]) -> str:
    unique = list(dict.fromkeys(filter(None, reasons)))
    return "; ".join(unique[:3]) + (f"; and {len(unique) - 3} more such reasons" if len(unique) > 3 else "")
