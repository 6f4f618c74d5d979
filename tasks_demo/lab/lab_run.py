"""One experiment for a test, by ``python -m tasks_demo.lab`` in processes of its own, and judged here. See ``pytest_plugin``."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from celery import Task

from tasks_demo.core.semantics import AT_LEAST_ONCE, AT_MOST_ONCE, EFFECTIVELY_ONCE, Promise
from tasks_demo.lab.plan.cells import Cell
from tasks_demo.lab.plan.project_task import Call, NotCounted, number_of_effects
from tasks_demo.lab.plan.project_task_advice import advice
from tasks_demo.lab.verdict.checker import CellResult, check
from tasks_demo.lab.verdict.history import HistoryEvent, read

FAULTS = {"child": "kill-child", "main": "kill-main", "group": "kill-group", None: "none"}
#: Jobs of a run without arguments.
JOBS = 3
#: Maximum time for a run, seconds; a cell has a bound of its own, which depends on its jobs.
LIMIT = 600.0
#: Events that a timeline leaves out: they are about the run, not about a job.
_OF_THE_RUN = {"worker", "quiescent"}


@dataclass(frozen=True)
class LabRun:
    """What a run showed. ``events``: its history; ``seed``: pass it to ``delivery_lab`` to repeat the run."""

    task: str
    seed: int
    events: Path
    cell: Cell

    def result(self, promise: Promise = AT_LEAST_ONCE) -> CellResult:
        """Return the counts and the verdict under a promise."""
        with self.events.open("rb") as file:
            (found,) = check(read(file), {self.task: promise})
        return found

    def assert_at_least_once(self) -> None:
        """Fail unless every job took effect."""
        __tracebackhide__ = True
        self._assert(AT_LEAST_ONCE)

    def assert_at_most_once(self) -> None:
        """Fail unless no job was executed, or took effect, twice."""
        __tracebackhide__ = True
        self._assert(AT_MOST_ONCE)

    def assert_effectively_once(self) -> None:
        """Fail unless every operation took effect once, however often it was executed."""
        __tracebackhide__ = True
        self._assert(EFFECTIVELY_ONCE)

    def timeline(self, operation: str) -> str:
        """Return what happened to an operation, one event a line, in seconds since its first event."""
        events = [event for event in self._history() if operation in (event.operation, event.task_id)]
        return "\n".join(
            f"  {event.at - events[0].at:7.3f} s  {event.kind:<12} {_who(event):<14} {_told(event)}".rstrip()
            for event in events
            if event.kind not in _OF_THE_RUN
        )

    def _assert(self, promise: Promise) -> None:
        __tracebackhide__ = True
        found = self.result(promise)
        if found.observed == "held":
            return
        words = {"broken": f"{self.task} was not {promise.semantics}", "unknown": f"{self.task}: nothing is proven"}
        said = [
            f"{words[found.observed]}: {found.kills['landed']} kills injected, {found.lost} lost, {found.duplicated} twice"
        ]
        said += [f"- {reason}" for reason in (*self._advice(found, promise), *found.reasons)]
        if operation := self._broken(promise):
            said += [f"What happened to {operation}:", self.timeline(operation)]
        said += [f"The same again: delivery_lab(..., seed={self.seed}). The whole history: {self.events}"]
        pytest.fail("\n".join(said), pytrace=False)

    def _advice(self, found: CellResult, promise: Promise) -> list[str]:
        if self.cell.project_task is None or found.observed != "broken":
            return []
        held_to = replace(self.cell, project_task=replace(self.cell.project_task, semantics=str(promise.semantics)))
        return advice(held_to, {what for what in ("lost", "duplicated") if getattr(found, what)})

    def _broken(self, promise: Promise) -> str:
        """An operation that is outside the bounds, or empty."""
        effects: dict[str, int] = {}
        executions: dict[str, int] = {}
        for event in self._history():
            if event.task_id:
                effects[event.operation] = effects.get(event.operation, 0) + (event.kind == "effect")
                executions[event.operation] = executions.get(event.operation, 0) + (event.kind == "started")
        outside = (
            each
            for each in effects
            if effects[each] not in promise.effects or executions[each] not in promise.executions
        )
        return next(outside, "")

    def _history(self) -> list[HistoryEvent]:
        with self.events.open("rb") as file:
            return list(read(file))


def _who(event: HistoryEvent) -> str:
    return f"pid {event.pid}" if event.pid else ""


def _told(event: HistoryEvent) -> str:
    if event.kind == "fault":
        at = f" at {event.detail['point']}" if event.detail.get("point") else ""
        return f"{event.detail.get('what')}{at}" + ("" if event.detail.get("landed") else " (was not injected)")
    return str(event.detail.get("why") or ("redelivered" if event.detail.get("redelivered") else ""))


def run(
    task: Any,
    args: Iterable[Any] | None = None,
    *,
    folder: Path,
    databases: dict[str, str],
    effects: Callable[..., int] | None = None,
    kill: str | None = "child",
    at: str | None = "",
    fault: str = "",
    broker: str = "",
    queue: str = "",
    jobs: int | None = None,
    kills: int | None = None,
    work: float = 0.0,
    seed: int | None = None,
) -> LabRun:
    """Run an experiment with one cell; fail the test if nothing can be known of it.

    :param args: the arguments of each job, as in a line of ``--args``: a list, a dict, or ``{"args": […], "kwargs": {…}}``.
    :param effects: called with the arguments of a job, returns how often it took effect; None: executions are judged.
    :param kill: ``child``, ``main``, ``group``, or None for no fault. ``fault``: instead, the name of one of the lab's.
    :param at: the point, or None for before and after the body; default: ``returned`` for ``kill``, None for ``fault``.
    :param broker: a name or an address, as ``--broker`` takes it; default: a Redis of the lab's own. ``queue``: as ``--queue``.
    :param jobs: how many; default: all of ``args``. ``kills``: how many of them are hit; default: all.
    :param work: seconds that the body takes at most.
    """
    __tracebackhide__ = True
    if kill not in FAULTS:
        pytest.fail(f"kill={kill!r}: write 'child', 'main', 'group' or None.", pytrace=False)
    if fault and kill != "child":
        pytest.fail(f"kill={kill!r} and fault={fault!r}: write one of them.", pytrace=False)
    if not isinstance(task, Task):
        name = getattr(task, "__name__", repr(task))
        pytest.fail(f"{name} is not a Celery task: pass delivery_lab what @app.task returned.", pytrace=False)
    for what, value in (("jobs", jobs), ("kills", kills)):
        if value is not None and value < 1:
            without = ", or kill=None for a run without faults" if what == "kills" else ""
            pytest.fail(f"{what}={value}: write a number from 1{without}.", pytrace=False)
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    lines = [] if args is None else _lines(args)
    number = jobs or len(lines) or JOBS
    events = folder / "events.jsonl"
    command = ["--task", str(task.name), "--fault", fault or FAULTS[kill], "--tasks", str(number), "--seed", str(seed)]
    command += ["--work", str(int(work * 1000)), "--no-progress", "--events", str(events)]
    command += ["--json", str(folder / "result.json")]
    command += [*(["--broker", broker] if broker else []), *(["--queue", queue] if queue else [])]
    if fault or kill:
        at = "returned" if at == "" and not fault else at
        command += ["--kills", str(kills or number), *(["--point", at] if at else [])]
    if lines:
        calls = folder / "calls.jsonl"
        calls.write_text("".join(lines), encoding="utf-8")
        command += ["--args", str(calls)]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if effects is not None:
            command += ["--effects", f"fd:{theirs.fileno()}"]
        code, said = _run(_app(task) + command, folder, databases, theirs.fileno(), ours, effects)
    if code not in (0, 1, 3):
        pytest.fail(f"delivery_lab could not run {task.name} (exit code {code}): {said.strip()}", pytrace=False)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    (cell,) = result["configuration"]["plan"]
    return LabRun(str(task.name), seed, events, Cell.from_dict(cell))


def _run(
    arguments: list[str],
    folder: Path,
    databases: dict[str, str],
    descriptor: int,
    line: socket.socket,
    effects: Callable[..., int] | None,
) -> tuple[int, str]:
    """Run the lab, and answer its questions about effects in this thread, which has the test's connections."""
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    env = {
        **os.environ,
        "PYTHONPATH": paths,
        "STATE_DIR": str(folder),
        "TASKS_DEMO_LAB_DATABASES": json.dumps(databases),
    }
    log = folder / "lab.log"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks_demo.lab", *arguments],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, pass_fds=[descriptor],
        )  # fmt: skip
    try:
        _answer(process, line, effects)
        return process.wait(LIMIT), log.read_text(encoding="utf-8", errors="replace")[-3000:]
    finally:
        if process.poll() is None:
            line.close()  # it may wait for an answer, which nobody gives any more
            process.send_signal(signal.SIGINT)  # it ends its workers
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answer(process: subprocess.Popen[bytes], line: socket.socket, effects: Callable[..., int] | None) -> None:
    """Answer until the lab has ended. An error of ``effects`` ends the run, and is the test's."""
    buffer = b""
    while process.poll() is None:
        if effects is None or not select.select([line], [], [], 0.1)[0]:
            if effects is None:
                return
            continue
        buffer += line.recv(1 << 20)
        while b"\n" in buffer:
            question, _, buffer = buffer.partition(b"\n")
            counts = [_counted(effects, Call(args, kwargs)) for args, kwargs in json.loads(question)]
            line.sendall(json.dumps(counts).encode() + b"\n")


def _counted(effects: Callable[..., int], call: Call) -> int:
    __tracebackhide__ = True
    try:
        return number_of_effects(call, effects(*call.args, **call.kwargs))
    except NotCounted as error:
        pytest.fail(str(error), pytrace=False)


def _lines(args: Iterable[Any]) -> list[str]:
    """The lines of ``--args``; fails the test for what they cannot hold."""
    __tracebackhide__ = True
    lines = []
    for number, each in enumerate(args):
        try:
            lines.append(f"{json.dumps(each)}\n")
        except (TypeError, ValueError, RecursionError) as error:
            pytest.fail(f"args[{number}] cannot be sent as JSON: {error}.", pytrace=False)
    if not lines:
        pytest.fail("args=[] has no call, so there is no job.", pytrace=False)
    return lines


def _app(task: Any) -> list[str]:
    """The option that names the task's app, where no Django project does."""
    if os.environ.get("DJANGO_SETTINGS_MODULE"):
        return []
    app = task.app
    for name, module in sorted(sys.modules.items()):
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is app and not name.startswith("celery."):
                return ["--app", f"{name}:{attribute}"]
    pytest.fail(
        f"The Celery app of {task.name} is not an attribute of a module, so that workers cannot import it.",
        pytrace=False,
    )


def databases() -> dict[str, str]:
    """Return the names of the test's databases, for other processes. Fails the test if they cannot see one."""
    from django.db import connections

    for alias in connections:
        connection: Any = connections[alias]
        if connection.vendor == "sqlite" and connection.is_in_memory_db():
            pytest.fail(
                f"The database {alias!r} of this test run is in memory, where the workers of delivery_lab cannot see it. Give it "
                f"a file: DATABASES[{alias!r}]['TEST'] = {{'NAME': BASE_DIR / 'test.sqlite3'}}.",
                pytrace=False,
            )
        if connection.in_atomic_block:
            pytest.fail(
                "delivery_lab needs committed rows, because its workers are other processes. Write "
                "@pytest.mark.django_db(transaction=True).",
                pytrace=False,
            )
    return {alias: str(connections[alias].settings_dict["NAME"]) for alias in connections}
