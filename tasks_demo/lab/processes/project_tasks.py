"""Finds a task of the project and reads its declaration; counts the effects of its calls."""

from __future__ import annotations

import difflib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from celery import current_app
from django.db import connections, router

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.core.lifecycle import described
from tasks_demo.core.semantics import PROMISES, Semantics
from tasks_demo.lab.plan.project_task import (
    SETTINGS,
    BadCalls,
    Call,
    NotCounted,
    ProjectTask,
    not_counted,
    number_of_effects,
    read_calls,
)
from tasks_demo.patterns.base import PatternTask
from tasks_demo.records.models import Attempt, Claim, Fence, InboxEntry, OutboxMessage, Parked

#: The tables in which the patterns remember operations, and those of single jobs.
_TABLES: dict[str, tuple[Any, ...]] = {
    "operation": (Claim, InboxEntry, Fence),
    "task_id": (Attempt, Parked, OutboxMessage),
}
_BATCH = 500


class TaskUnusable(ValueError):
    """The task, its calls or its count of effects cannot be used: the message says which and why."""


class Effects(Protocol):
    """Counts, for each call, how often it has taken effect until now. Raises EnvironmentNotReady."""

    def __call__(self, calls: Sequence[Call]) -> list[int]: ...


def load_project_task(name: str, file: str = "", effects: str = "", promise: str = "") -> ProjectTask:
    """Return the task of that name as the plan needs it. Raises TaskUnusable."""
    task = registered(name)
    pattern = task.pattern if isinstance(task, PatternTask) else ""
    early = not task.acks_late
    declared = PROMISES[pattern].semantics if pattern else Semantics.AT_MOST_ONCE if early else Semantics.AT_LEAST_ONCE
    try:
        calls, digest = read_calls(Path(file)) if file else ((), "")
    except BadCalls as error:
        raise TaskUnusable(str(error)) from error
    for number, call in enumerate(calls or [Call()], 1):
        _check(task, call, f"{file}, line {number}" if file else "without --args")
    if effects:
        counter(effects)
    return ProjectTask(
        name=task.name,
        semantics=promise or str(declared),
        early=early,
        promise_given=bool(promise),
        pattern=pattern,
        settings={name: getattr(task, name, None) for name in SETTINGS},
        effects=effects,
        file=str(Path(file).absolute()) if file else "",
        digest=digest,
        calls=calls,
    )


def registered(name: str) -> Any:
    """Return the task of that name. Raises TaskUnusable with the names that come close."""
    current_app.loader.import_default_modules()
    current_app.finalize()
    known = [each for each in current_app.tasks if not each.startswith("celery.")]
    if name in known:
        return current_app.tasks[name]
    theirs = [each for each in known if not each.startswith("tasks_demo.")] or known  # nobody asked for the demo's
    close = difflib.get_close_matches(name, theirs, 3, 0.4) or sorted(theirs)[:3]
    raise TaskUnusable(
        f"--task {name}: the Celery app {current_app.main!r} has no such task. "
        f"{'Did you mean ' + ' or '.join(close) + '?' if close else 'It has none at all: name its module with --app.'}"
    )


def _check(task: Any, call: Call, where: str) -> None:
    """Refuse what publishing would refuse."""
    try:
        if task.typing:
            task.__header__(*call.args, **call.kwargs)
        operation_of(task, call, "none")
    except Exception as error:
        raise TaskUnusable(f"{where}: {task.name} cannot be called like that: {described(error)}.") from error


def operation_of(task: Any, call: Call, task_id: str) -> str:
    """The operation of a job: the task ID, unless a pattern computes a key."""
    return task.operation_key(call.args, call.kwargs, task_id) if isinstance(task, PatternTask) else task_id


def refuse_done(task: Any, operations: Sequence[str]) -> None:
    """Raise EnvironmentNotReady if the patterns' tables hold one of these operations: its job would be suppressed."""
    for rows in _rows(task, "operation", operations):
        if found := rows.values_list("operation", flat=True).first():
            raise EnvironmentNotReady(
                f"The operation {found!r} of {task.name} was done before this run, and would not be done again. Give --args "
                "calls with operations of their own, or let this one be done again: "
                f"python manage.py operation forget {found!r}."
            )


def forget_done(task: Any, operations: Sequence[str], task_ids: Sequence[str]) -> None:
    """Delete what the run has left in the patterns' tables. ``refuse_done`` has made sure that it was not there before."""
    for rows in (*_rows(task, "operation", operations), *_rows(task, "task_id", task_ids)):
        rows.delete()


def _rows(task: Any, field: str, values: Sequence[str]) -> Iterator[Any]:
    """The rows of a pattern's tables that have one of these values, in batches that every database takes."""
    for model in _TABLES[field] if isinstance(task, PatternTask) else ():
        alias = task.using or router.db_for_write(model)
        if model._meta.db_table in connections[alias].introspection.table_names():  # not every pattern needs a table
            for start in range(0, len(values), _BATCH):
                yield model.objects.using(alias).filter(**{f"{field}__in": values[start : start + _BATCH]})


@cache
def counter(effects: str) -> Effects:
    """Return what counts the effects: ``module:callable``, or ``fd:N``, a socket that answers. Raises TaskUnusable."""
    module, _, name = effects.partition(":")
    if module == "fd" and name.isdecimal():
        return _ask(socket.socket(fileno=int(name)))
    if not name:
        raise TaskUnusable(f"--effects {effects}: write module:callable.")
    try:
        count: Any = import_module(module)
        for part in name.split("."):
            count = getattr(count, part)
    except (Exception, SystemExit) as error:
        raise TaskUnusable(
            f"--effects {effects} cannot be imported: {described(error)}. Write module:callable."
        ) from error
    if not callable(count):
        raise TaskUnusable(f"--effects {effects} is {count!r}, which cannot be called.")
    return lambda calls: [counted(count, call) for call in calls]


def counted(count: Callable[..., Any], call: Call) -> int:
    """How often this call has taken effect, as ``count`` says, which gets the arguments of the job."""
    try:
        return number_of_effects(call, count(*call.args, **call.kwargs))
    except NotCounted as error:
        raise EnvironmentNotReady(str(error)) from error
    except (Exception, SystemExit) as error:
        raise EnvironmentNotReady(not_counted(call, described(error))) from error


def _ask(line: socket.socket) -> Effects:
    """Ask over a socket: one JSON array of ``[args, kwargs]`` a line, answered by an array of numbers or an error."""
    answers, lock = line.makefile("r", encoding="utf-8"), threading.Lock()

    def ask(calls: Sequence[Call]) -> list[int]:
        with lock:
            try:
                line.sendall(json.dumps([[call.args, call.kwargs] for call in calls]).encode() + b"\n")
                answer = json.loads(answers.readline() or '{"error": "nobody answers"}')
            except OSError as error:
                answer = {"error": str(error)}
        if isinstance(answer, dict):
            raise EnvironmentNotReady(answer["error"])
        return [int(number) for number in answer]

    return ask
