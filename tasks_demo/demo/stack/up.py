"""Run the lines of a Procfile side by side, with their output interleaved, until one ends or we are asked to stop.

honcho reads the Procfile and prints; the processes are ours (``spawn``), for two reasons: honcho's own manager leaves
everything running when it is killed, and it stops all at once, so that a worker loses Redis while it finishes a task.
"""

from __future__ import annotations

import os
import selectors
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from string import Template
from types import FrameType
from typing import IO

from honcho.colour import get_colours
from honcho.environ import parse_procfile
from honcho.printer import Message, Printer

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.stack.processes import Process, spawn

_TICK_SECONDS = 0.1


def read_procfile(path: Path, *, without: Sequence[str] = (), variables: Mapping[str, str]) -> dict[str, list[str]]:
    """Return argument lists by name. No shell runs: words are split as by a shell, and ``$NAME`` comes from ``variables``."""
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
    """The running processes. ``last`` names those that others need: they are started first and stopped last."""

    def __init__(
        self, commands: Mapping[str, Sequence[str]], *, last: Sequence[str], cwd: Path, output: IO[str] | None = None
    ) -> None:
        self._commands = dict(commands)
        self._last = [name for name in last if name in commands]
        self._cwd = cwd
        # The virtual environment's programs first: it need not be activated.
        self._env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
        self._env["PYTHONUNBUFFERED"] = "1"
        self._printer = Printer(output or sys.stdout, width=max(map(len, [*commands, "system"])))
        self._colours = dict(zip(commands, get_colours(), strict=False))
        self._selector = selectors.DefaultSelector()
        self._processes: dict[str, Process] = {}
        self._partial: dict[str, bytes] = {}
        self._asked: list[int] = []

    def run(self, ready: Mapping[str, Callable[[], bool]], *, ready_seconds: float = 20.0, grace: float = 15.0) -> int:
        """Start all, and return when all have ended: 130 after Ctrl-C, 0 after SIGTERM.

        If a process ends by itself, the others are stopped, and EnvironmentNotReady names it. On the first signal
        each has ``grace`` seconds to end; a second signal kills at once.
        """
        with self._signals():
            try:
                for name in sorted(self._commands, key=lambda name: name not in self._last):
                    self._start(name)
                    if name in ready:
                        self._await(name, ready[name], ready_seconds)
                while not self._asked:
                    self._pump()
                    self._check()
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
        self._say(f"{name} started (pid {self._processes[name].pid})")

    def _await(self, name: str, answers: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._asked and not answers():
            self._pump()
            self._check()
            if time.monotonic() > deadline:
                raise EnvironmentNotReady(f"{name} did not answer within {seconds:g} s. Everything was stopped.")

    def _check(self) -> None:
        for name, process in self._processes.items():
            if not process.alive():
                self._drain()
                process.kill()
                raise EnvironmentNotReady(
                    f"{name} ended by itself (code {process.returncode}); its last lines above say why. "
                    "Everything was stopped."
                )

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
        """Print the output that has arrived; True if there was some."""
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

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def note(number: int, _frame: FrameType | None) -> None:
            self._asked.append(number)

        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
