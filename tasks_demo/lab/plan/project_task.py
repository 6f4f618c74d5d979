"""A task of the project as the jobs of a cell: what it is held to, where it can be hit, and its calls. Reads one file."""

from __future__ import annotations

import hashlib
import json
import reprlib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tasks_demo.core.lifecycle import Point
from tasks_demo.core.semantics import BY_NAME, Promise, Semantics
from tasks_demo.lab.plan.faults import Fault

#: Points that the pool process of any task passes, and those of the patterns that pass more.
BODY = (Point.STARTED, Point.RETURNED)
_CHILD = {
    "claim_first": (Point.CLAIMED, *BODY),
    "dedup_lock": (Point.CLAIMED, Point.STARTED, Point.COMPLETED, Point.RETURNED),
    "inbox": (Point.STARTED, Point.COMPLETED, Point.RETURNED),
}
#: Points of a worker's main process, before and after those: Celery passes them for any task.
MAIN = ((Point.FETCHED, Point.RECEIVED), (Point.ACKING, Point.ACKED))
#: Faults that need nothing of the demo. ``poison`` needs a pattern that parks, or it would never end.
FAULTS = (
    *(Fault.NONE, Fault.KILL_CHILD, Fault.KILL_MAIN, Fault.KILL_GROUP, Fault.TERM, Fault.QUIT, Fault.STOP),
    *(fault for fault in Fault if fault.of_connection or fault.disturbed_request == "publish"),
    *(Fault.OUT_OF_MEMORY, Fault.CLOCK_JUMP),
    *(fault for fault in Fault if fault.of_broker),
)
#: Why others cannot happen to it, where there is more to say than that they are of the demo's jobs.
NOT_FAULTS = {
    Fault.POISON: "it parks nothing, so it would never end",
    Fault.DATABASE_KILL: "it uses the databases of its own project, and the lab kills only servers that it starts. Run "
    "`python -m tasks_demo.lab --task … --fault none`, whose ledger is a file, and restart your server meanwhile",
    **{
        fault: "its databases and leases are those of its own project, and the lab disturbs only connections to its broker"
        for fault in Fault
        if fault.disturbed_request in {"commit", "claim"}
    },
}
#: Settings of a task that decide about its deliveries, and what Celery ships.
SETTINGS = {
    "acks_late": False,
    "reject_on_worker_lost": None,
    "acks_on_failure_or_timeout": True,
    "acks_on_timeout": True,
}


#: Characters of a call's arguments in a sentence.
_SHOWN = 100
_WRITE = "an array of arguments, or an object, in a line of its own for each job, as `jq -c '.[]'` writes it"


class BadCalls(ValueError):
    """The file of calls cannot be used: the message names the line and what is wrong with it."""


class NotCounted(ValueError):
    """A count of effects returned something else than a number; the message is a sentence."""


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one job."""

    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProjectTask:
    """A task of the project.

    :param semantics: what it is held to; ``promise_given``: by ``--promise``, not by its declaration.
    :param early: its messages are acknowledged before the body.
    :param pattern: its pattern; empty: none. ``settings``: those of ``SETTINGS``, as the task has them.
    :param effects: ``module:callable`` that counts the effects of a call; empty: executions are judged.
    :param file: of its calls, and ``digest``: of that file; empty: it is called without arguments.
    """

    name: str
    semantics: str
    early: bool
    promise_given: bool = False
    pattern: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    effects: str = ""
    file: str = ""
    digest: str = ""
    calls: tuple[Call, ...] = field(default=(), repr=False)

    @property
    def promise(self) -> Promise:
        """The bounds that it is held to."""
        return BY_NAME[Semantics(self.semantics)]

    @property
    def judged(self) -> str:
        """What is counted: ``effects``, or ``executions`` that returned."""
        return "effects" if self.effects else "executions"

    @property
    def points(self) -> tuple[Point, ...]:
        """The points that it passes, in the order of its life."""
        return (*MAIN[0], *_CHILD.get(self.pattern, BODY), *MAIN[1])

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults that can happen to it."""
        parks = self.pattern and not self.early
        return (*FAULTS, Fault.POISON) if parks else FAULTS

    def call(self, index: int) -> Call:
        """The call of the job with this number."""
        return self.calls[index] if self.calls else Call()

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values, without the calls: they stay in their file."""
        return {name: value for name, value in asdict(self).items() if name != "calls"}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ProjectTask:
        """The inverse of ``as_dict``; reads the file again. Raises KeyError, ValueError or TypeError for invalid data."""
        given = {each.name: data[each.name] for each in fields(cls) if each.name != "calls"}
        calls, digest = read_calls(Path(given["file"])) if given["file"] else ((), "")
        if digest != given["digest"]:
            raise ValueError(f"{given['file']} is no longer the file of that run")
        task = cls(**given, calls=calls)
        _ = task.promise  # raises ValueError for unknown semantics
        return task


def read_calls(path: Path) -> tuple[tuple[Call, ...], str]:
    """Return the calls in a file of JSON Lines, and the file's digest. Raises BadCalls.

    A line is an array (the arguments), an object (the keyword arguments), or ``{"args": […], "kwargs": {…}}``. Empty lines are no
    jobs.
    """
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8-sig").split("\n")  # splitlines also splits at U+2028, which JSON has in strings
    except OSError as error:
        raise BadCalls(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BadCalls(f"{path} is not UTF-8 ({error.reason}).") from error
    calls = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                calls.append(as_call(json.loads(line)))
        except (ValueError, RecursionError) as error:
            why = f"{error.msg} at its character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
            raise BadCalls(f"{path}, line {number}: {why}. Write {_WRITE}.") from error
    if not calls:
        raise BadCalls(f"{path} has no line, so there is no job.")
    return tuple(calls), hashlib.sha256(content).hexdigest()[:16]


def as_call(value: Any) -> Call:
    """The call that a line means. Raises ValueError."""
    if isinstance(value, list):
        return Call(value, {})
    if isinstance(value, dict) and value and value.keys() <= {"args", "kwargs"}:
        args, kwargs = value.get("args", []), value.get("kwargs", {})
        if isinstance(args, list) and isinstance(kwargs, dict):
            return Call(args, kwargs)
        raise ValueError("args is an array and kwargs an object")
    if isinstance(value, dict):
        return Call([], value)
    raise ValueError(f"it is {type(value).__name__}, and no call")


def number_of_effects(call: Call, found: Any) -> int:
    """What a count of effects returned for a call. Raises NotCounted if that is not a number of effects."""
    if type(found) is int and found >= 0:
        return found
    why = f"it returned {reprlib.repr(found)}, and has to return a whole number from 0"
    raise NotCounted(not_counted(call, why))


def not_counted(call: Call, why: str) -> str:
    """A sentence about a call whose effects could not be counted."""
    arguments = [
        *map(reprlib.repr, call.args),
        *(f"{name}={reprlib.repr(value)}" for name, value in call.kwargs.items()),
    ]
    return f"The effects of ({', '.join(arguments)[:_SHOWN]}) could not be counted: {why}."
