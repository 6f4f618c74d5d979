"""Run the lines of a Procfile in parallel, with their output interleaved, until one exits or a signal asks to stop. One that is
killed is started again.

honcho parses the Procfile and prints. Its process manager is not used, for two reasons: it leaves the processes running when it
is killed, and it stops all of them at the same time, so that a worker loses Redis while it finishes a task.
"""

from __future__ import annotations

import os
import selectors
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from string import Template
from typing import IO

from honcho.colour import get_colours
from honcho.environ import parse_procfile
from honcho.printer import Message, Printer

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.stack.processes import Process, spawn
from tasks_demo.management.stopping import stop_signals

_TICK_SECONDS = 0.1
#: Before ``then`` is called, nothing is printed for SILENCE_SECONDS, or SETTLE_SECONDS have passed.
SILENCE_SECONDS, SETTLE_SECONDS = 0.5, 20.0
#: A process that is killed sooner after its start, seconds, is not started again: it would be killed in a loop.
LIVED_SECONDS = 2.0


def read_procfile(path: Path, *, without: Sequence[str] = (), variables: Mapping[str, str]) -> dict[str, list[str]]:
    """Return argument lists by name. Words are split as a shell does, but no shell runs; ``variables`` replace ``$NAME``."""
    try:
        text = path.read_text()
    except OSError as error:
        raise EnvironmentNotReady(f"{path} cannot be read: {error.strerror}. Nothing was started.") from error
    lines: Mapping[str, str] = parse_procfile(text).processes
    return {
        name: shlex.split(Template(line).safe_substitute(variables))
        for name, line in lines.items()
        if name not in without
    }


class Formation:
    """The running processes. ``last``: names of those that others need, which are started first and stopped last."""

    def __init__(
        self, commands: Mapping[str, Sequence[str]], *, last: Sequence[str], cwd: Path, output: IO[str] | None = None
    ) -> None:
        self._commands = dict(commands)
        self._last = [name for name in last if name in commands]
        self._cwd = cwd
        # The virtual environment's programs come first, so that it need not be activated.
        self._env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
        self._env["PYTHONUNBUFFERED"] = "1"
        self._printer = Printer(output or sys.stdout, width=max(map(len, [*commands, "system"])))
        self._colours = dict(zip(commands, get_colours(), strict=False))
        self._selector = selectors.DefaultSelector()
        self._processes: dict[str, Process] = {}
        self._started_at: dict[str, float] = {}
        self._partial: dict[str, bytes] = {}
        self._asked: list[int] = []

    def run(
        self,
        ready: Mapping[str, Callable[[], bool]],
        *,
        then: Callable[[], object] = lambda: None,
        settled: Callable[[], bool] = lambda: True,
        ready_seconds: float = 60.0,
        grace: float = 15.0,
    ) -> int:
        """Start the processes one after the other, call ``then`` when all answer, and return when all have ended.

        ``then`` waits for ``settled``, and for the end of what the processes print when they start, but not for long. Returns 130
        after Ctrl-C, 0 after SIGTERM. A process that has an entry in ``ready`` must answer, within ``ready_seconds``, before the
        next one is started.

        A process that is killed by a signal, once all answer, is started again, as its supervisor would in production. If a
        process exits, or is killed within LIVED_SECONDS of its start, the others are stopped, and EnvironmentNotReady names it.
        After the first signal each has ``grace`` seconds to end; a second signal kills immediately.
        """
        with stop_signals() as self._asked:
            try:
                for name in sorted(self._commands, key=lambda name: name not in self._last):
                    self._start(name)
                    if name in ready:
                        self._await(name, ready[name], ready_seconds)
                self._settle(settled)
                if not self._asked:
                    then()
                while not self._asked:
                    self._pump()
                    self._check(restart=True)
            finally:
                self._stop(grace)
                self._selector.close()
        return 130 if self._asked[0] == signal.SIGINT else 0

    def _start(self, name: str) -> None:
        if self._asked:
            return
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        self._selector.register(ours, selectors.EVENT_READ, name)
        try:
            self._processes[name] = spawn(self._commands[name], env=self._env, output=theirs, cwd=self._cwd)
        finally:
            os.close(theirs)
        self._started_at[name] = time.monotonic()
        self._say(f"{name} started (pid {self._processes[name].pid})")

    def _await(self, name: str, answers: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._asked and not answers():
            self._pump()
            self._check()
            if time.monotonic() > deadline:
                raise EnvironmentNotReady(f"{name} did not answer within {seconds:g} s. Everything was stopped.")

    def _settle(self, settled: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        quiet = False
        while not self._asked and not (quiet and settled()) and time.monotonic() < deadline:
            quiet = not self._pump(SILENCE_SECONDS)
            self._check(restart=True)

    def _check(self, *, restart: bool = False) -> None:
        for name, process in list(self._processes.items()):
            if process.alive() or self._asked:
                continue
            self._drain()
            process.kill()
            code = process.returncode or 0
            lived = time.monotonic() - self._started_at[name]
            if not restart or code >= 0 or lived < LIVED_SECONDS:
                raise EnvironmentNotReady(
                    f"{name} exited unexpectedly (code {code}); its last lines above say why. Everything was stopped."
                )
            self._say(f"{name} was killed by {signal.Signals(-code).name} and is started again")
            self._start(name)

    def _stop(self, grace: float) -> None:
        front = [process for name, process in self._processes.items() if name not in self._last]
        back = [self._processes[name] for name in reversed(self._last) if name in self._processes]
        for stage in (front, back):
            deadline = time.monotonic() + grace
            for process in stage:
                process.terminate()
            while any(process.alive() for process in stage) and len(self._asked) < 2 and time.monotonic() < deadline:
                self._pump()
            for process in stage:
                process.kill()
        self._drain()
        for key in list(self._selector.get_map().values()):
            self._close(key.fd)
        if self._processes:
            self._say("all stopped")

    def _drain(self) -> None:
        while self._pump(0):
            pass

    def _pump(self, seconds: float = _TICK_SECONDS) -> bool:
        """Print the output that has arrived. Returns whether there was any."""
        events = self._selector.select(seconds)
        for key, _ in events:
            name = key.data
            chunk = os.read(key.fd, 65536)
            *lines, self._partial[name] = (self._partial.get(name, b"") + chunk).split(b"\n")
            if not chunk:
                lines.append(self._partial.pop(name))
                self._close(key.fd)
            for line in filter(None, lines):
                self._print(name, line.decode("utf-8", "replace"))
        if not events and not self._selector.get_map():
            time.sleep(seconds)
        return bool(events)

    def _close(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)
        os.close(descriptor)

    def _say(self, text: str) -> None:
        self._print("system", text)

    def _print(self, name: str, text: str) -> None:
        # honcho's printer shows local time.
        now = datetime.now().astimezone()
        self._printer.write(Message(type="line", data=text, time=now, name=name, colour=self._colours.get(name)))
