"""Turns the options of ``manage.py experiment`` into cells. An option that would have no effect is refused, never ignored."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tasks_demo.core.semantics import PROMISES
from tasks_demo.lab import controls
from tasks_demo.lab.plan.brokers import KINDS, REDIS, BrokerKind, kind_of
from tasks_demo.lab.plan.cells import (
    AIMABLE,
    MIXED,
    MOST_TASKS,
    Cell,
    applies,
    plan,
    plan_controls,
    points_of,
    why_not_on,
)
from tasks_demo.lab.plan.combined import PLUS, Combined, parse, parts
from tasks_demo.lab.plan.disturbed_requests import why_never
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.project_task import NOT_FAULTS, ProjectTask

PATTERNS = list(PROMISES)
#: What ``--fault`` names. ``load`` comes with a rate, by ``--load``.
FAULTS = [str(fault) for fault in Fault if fault is not Fault.LOAD]
POINTS = list(dict.fromkeys(str(point) for points in AIMABLE.values() for point in points))
DEFAULT_FAULTS = [str(Fault.NONE), str(Fault.KILL_CHILD), str(Fault.KILL_MAIN)]
AIMED_FAULTS = DEFAULT_FAULTS[1:]
TASKS, PROJECT_TASKS = 100, 20
#: Of a cell under load: jobs, and jobs for each kill.
LOAD_TASKS, LOAD_JOBS_PER_KILL = 2000, 200
#: Jobs of a cell whose fault happens while jobs are queued: one runs, and the worker may hold another.
LEAST_QUEUED = 3
#: Jobs and victims in each cell of a control.
CONTROL_TASKS, CONTROL_KILLS = 6, 2
#: Options that have no effect beside ``--replay``, and beside ``--plan``.
PLANNING_OPTIONS = (
    *("task", "calls", "effects", "promise", "control", "rival", "pattern", "fault", "point", "tasks", "kills", "work"),
    *("clicks", "keyless", "load", "seed", "queue"),
)
RUN_OPTIONS = ("lanes", "json", "junit", "markdown", "html", "events", "no_progress", "run")

#: An option that Django has no name for.
_OPTION_NAMES = {"calls": "args"}


class OptionRefused(ValueError):
    """The options contradict each other, or one of them would have no effect; the message says which and why."""


def cells_for(
    options: Mapping[str, Any], seed: int, project_task: ProjectTask | None = None
) -> tuple[list[Cell], list[str]]:
    """Return the cells, of the patterns or of ``project_task``, and a sentence for each named combination that was left out.

    Raises OptionRefused.
    """
    load = options.get("load") or 0
    if load and (given := _given(options, ("task", "control", "rival", "fault", "point", "clicks", "keyless"))):
        raise OptionRefused(
            f"{given} would do nothing here: --load kills workers of the demo at random moments. Leave it out."
        )
    if project_task is None and (options.get("control") or options.get("rival")):
        return _of_controls(options, seed), []
    if project_task is None:
        refuse_task_options(options)
        patterns, all_patterns = _chosen("--pattern", options["pattern"], PATTERNS, PATTERNS)
    else:
        refuse_demo_options(options, project_task)
        patterns, all_patterns = [project_task.name], True
    points, all_points = _chosen(
        "--point", options["point"], [str(point) for point in project_task.points] if project_task else POINTS, []
    )
    usual = AIMED_FAULTS if points else DEFAULT_FAULTS
    faults, all_faults = _chosen(
        "--fault", options["fault"], [str(one) for one in project_task.faults] if project_task else FAULTS, usual
    )
    if Fault.LOAD in faults:
        raise OptionRefused("--fault load needs a rate: write --load RATE instead.")
    try:
        faults = [str(Fault.LOAD)] if load else list(dict.fromkeys(str(parse(name)) for name in faults))
    except ValueError as error:
        raise OptionRefused(str(error)) from error
    usual_tasks = LOAD_TASKS if load else PROJECT_TASKS if project_task else TASKS
    tasks, kills = options["tasks"] or (project_task and len(project_task.calls)) or usual_tasks, options["kills"]
    if project_task and tasks > MOST_TASKS:
        raise OptionRefused(
            f"{project_task.file} has {tasks:,} lines, more than {MOST_TASKS:,}: limit them with --tasks."
        )
    if load:
        kills = kills or max(1, tasks // LOAD_JOBS_PER_KILL)
    if (kills or 0) > tasks:
        raise OptionRefused(f"--kills {kills} is more than --tasks {tasks}: each job is hit at most once.")
    brokers = _brokers(options)
    for name in () if all_faults else faults:
        fault, _ = parts(parse(name))  # the other of two is none of the broker
        reasons = {broker.family: why_not_on(broker.name, fault) for broker in brokers}
        if all(reasons.values()):
            family, why = next(iter(reasons.items()))
            raise OptionRefused(f"{name} would do nothing on {family}: {why}.")
        if fault.once_per_cell and tasks < LEAST_QUEUED:
            raise OptionRefused(
                f"{name} happens while jobs are queued: it takes {LEAST_QUEUED} or more, and there is {tasks}."
            )
    cells = plan(
        patterns=patterns,
        faults=[parse(name) for name in faults],
        points=points,
        brokers=[broker.name for broker in brokers],
        seed=seed,
        tasks=tasks,
        kills=kills,
        work_ms=options["work"] or 0,
        clicks=options["clicks"] or 1,
        keyless=options["keyless"],
        project_task=project_task,
        load=load,
    )
    impossible = {
        (pattern, fault, point): why_not(pattern, parse(fault), point, project_task)
        for pattern in patterns
        for fault in faults
        for point in points or [""]
    }
    if not cells:
        raise OptionRefused(f"Nothing to run: {_reasons(why for why, _ in impossible.values())}.")
    named: list[tuple[str, Sequence[str], Callable[[Cell], str]]] = [
        ("--pattern", [] if all_patterns else patterns, lambda cell: cell.pattern),
        ("--fault", [] if all_faults else faults, lambda cell: cell.fault_name),
        ("--point", [] if all_points else points, lambda cell: cell.point),
    ]
    for place, (option, values, of) in enumerate(named):
        for value in values:
            if not any(of(cell) == value for cell in cells):
                why = _reasons(why for combination, (why, _) in impossible.items() if combination[place] == value)
                raise OptionRefused(f"{option} {value} would do nothing here: {why}. Leave it out.")
    if points and not any(cell.point for cell in cells):
        raise OptionRefused(
            f"--point would do nothing here: {_reasons(why for why, _ in impossible.values())}. Leave it out."
        )
    if options["keyless"] and not any(cell.keyless for cell in cells):
        raise OptionRefused("--keyless would do nothing here: only the jobs of dedup_lock pass a key to the bank.")
    if kills and not any(cell.victims for cell in cells):
        raise OptionRefused("--kills would do nothing here: the fault none has no victims.")
    missed = {why for why, because in impossible.values() if because and all(named[place][1] for place in because)}
    return cells, [f"Left out: {why}." for why in sorted(missed)]


def _of_controls(options: Mapping[str, Any], seed: int) -> list[Cell]:
    if given := _given(options, ("pattern", "fault", "point", "clicks", "keyless")):
        raise OptionRefused(
            f"{given} would do nothing here: each control and rival says itself where it is tried. Leave it out."
        )
    names = [
        *_chosen("--control", options["control"], controls.CONTROLS, [])[0],
        *_chosen("--rival", options["rival"], controls.RIVALS, [])[0],
    ]
    if (brokers := _brokers(options)) != [REDIS]:
        raise OptionRefused(f"Controls and rivals are tried on Redis, not on {brokers[-1].family}: leave --broker out.")
    tasks = options["tasks"] or CONTROL_TASKS
    try:
        return plan_controls(
            names,
            broker=REDIS.name,
            seed=seed,
            tasks=tasks,
            kills=options["kills"] or min(tasks, CONTROL_KILLS),
            work_ms=options["work"] or 0,
        )
    except ImportError as error:
        raise OptionRefused(f"{error.name} is not installed: pip install -r requirements-rivals.txt.") from error


def _brokers(options: Mapping[str, Any]) -> list[BrokerKind]:
    named = _named_brokers(options) or [REDIS.family]
    try:
        found = [kind_of(name, options.get("queue") or "") for name in named]
    except ValueError as error:
        raise OptionRefused(str(error)) from error
    if len(found) > 1 and any("://" in name for name in named):
        raise OptionRefused("--broker takes several names, or one address.")
    if len(set(found)) < len(found):
        raise OptionRefused("--broker names the same broker twice.")
    return found


def _named_brokers(options: Mapping[str, Any]) -> list[str]:
    named = options.get("broker")
    return [named] if isinstance(named, str) else list(named or ())


def broker_address(options: Mapping[str, Any]) -> str:
    """Return the address that ``--broker`` gives; empty if it names a broker, or none."""
    return next((name for name in _named_brokers(options) if "://" in name), "")


def refuse_task_options(options: Mapping[str, Any]) -> None:
    """Raise OptionRefused for an option that is about a task of the project, where none is named."""
    if given := _given(options, ("calls", "effects", "promise")):
        raise OptionRefused(f"{given} would do nothing here: it is about the task that --task names.")


def refuse_demo_options(options: Mapping[str, Any], project_task: ProjectTask) -> None:
    """Raise OptionRefused for an option that is about the demo's jobs, and for more jobs than there are calls."""
    if given := _given(options, ("pattern", "clicks", "keyless")):
        raise OptionRefused(f"{given} is about the jobs of the demo: leave it out beside --task.")
    if project_task.calls and (options["tasks"] or 0) > len(project_task.calls):
        lines = f"the {len(project_task.calls)} lines of {project_task.file}"
        raise OptionRefused(f"--tasks {options['tasks']} is more than {lines}.")


def refuse_planning_options(options: Mapping[str, Any]) -> None:
    """Raise OptionRefused for an option that the replayed plan decides."""
    if given := _given(options, PLANNING_OPTIONS):
        raise OptionRefused(f"--replay brings its own plan: leave {given} out.")


def refuse_other_broker(options: Mapping[str, Any], cells: Iterable[Cell]) -> None:
    """Raise OptionRefused unless the broker that was named is of the kind of these replayed cells."""
    if not options["broker"]:
        return
    families = {kind.family for kind in _brokers({"broker": options["broker"]})}
    for cell in cells:
        if KINDS[cell.broker].family not in families:
            named = " ".join(name.partition("://")[0] for name in _named_brokers(options))
            raise OptionRefused(f"The plan is for {cell.broker}: --broker {named} is another.")


def refuse_run_options(options: Mapping[str, Any]) -> None:
    """Raise OptionRefused for an option that is about a run, of which ``--plan`` makes none."""
    if given := _given(options, RUN_OPTIONS):
        raise OptionRefused(f"--plan runs nothing, so {given} would do nothing: leave it out.")


def command_line(options: Mapping[str, Any], seed: int) -> str:
    """The command that runs the same plan again. Instead of an address with a password, it names the kind of broker."""
    parts = ["python", "manage.py", "experiment"]
    for name in (*PLANNING_OPTIONS, "broker"):
        value = seed if name == "seed" else options.get(name)
        if value is None or value is False:
            continue
        if name == "broker":
            value = [kind_of(one).family if "@" in one else one for one in _named_brokers(options)]
        values = [] if value is True else value if isinstance(value, list) else [value]
        parts += [f"--{name}", *map(str, values)]
    return shlex.join(parts)


def _given(options: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(
        f"--{_OPTION_NAMES.get(name, name.replace('_', '-'))}"
        for name in names
        if (value := options.get(name)) is not None and value is not False
    )


def _chosen(option: str, given: list[str] | None, everything: list[str], default: list[str]) -> tuple[list[str], bool]:
    """The values that were named, without repetitions, and whether that is all or the default."""
    named = list(dict.fromkeys(given or ()))
    if "all" not in named:
        return (named, False) if named else (default, True)
    beside = [name for name in named if name == MIXED or PLUS.strip() in name]  # "all" does not include them
    more = [name for name in named if name not in ("all", *beside)]
    if more:
        raise OptionRefused(f"{option} all includes everything: leave {', '.join(more)} out.")
    return everything + beside, True


def why_not(
    pattern: str, fault: Fault | Combined, point: str, project_task: ProjectTask | None = None
) -> tuple[str, tuple[int, ...]]:
    """Why there is no such cell ("" if there is one), and which of the three do not go together."""
    if isinstance(fault, Combined):
        return max(why_not(pattern, fault.first, point, project_task), why_not(pattern, fault.also, "", project_task))
    if project_task is not None and fault not in project_task.faults:
        return (
            f"{fault} cannot happen to {pattern}: {NOT_FAULTS.get(fault, 'it is a fault of the jobs of the demo')}",
            (0, 1),
        )
    if not applies(pattern, fault, project_task):
        return f"the job of {pattern} {why_never(pattern, fault)}, so {fault} cannot happen to it", (0, 1)
    if point and not fault.aimable:
        return f"{fault} cannot be injected at a point", ()  # its cell runs anyway
    if point in ("", MIXED):
        return "", ()
    if point not in (project_task.points if project_task else AIMABLE[pattern]):
        return f"a job of {pattern} never reaches {point}", (0, 2)
    if point not in points_of(pattern, fault, project_task):
        return f"at {point} no pool process has the job, so {fault} cannot be injected there", (1, 2)
    return "", ()


def _reasons(reasons: Iterable[str]) -> str:
    unique = list(dict.fromkeys(filter(None, reasons)))
    return "; ".join(unique[:3]) + (f"; and {len(unique) - 3} more such reasons" if len(unique) > 3 else "")
