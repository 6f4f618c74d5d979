"""The base class of the embedded servers: a child process that is started, awaited, killed and restarted."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.stack.processes import Process


class EmbeddedServer(ABC):
    """A server that runs for as long as the ``with`` block lasts. Its output is appended to ``log``."""

    def __init__(self, log: Path, ready_seconds: float) -> None:
        self.log = log
        self.process: Process | None = None
        self._ready_seconds = ready_seconds

    def alive(self) -> bool:
        """Return True while the server's process runs."""
        return self.process is not None and self.process.alive()

    def start(self) -> None:
        """Start, or restart after ``kill``, and return when the server answers.

        Raises EnvironmentNotReady, with the end of the log, if it does not answer within ``ready_seconds``.
        """
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """The first half of ``start``, which needs the main thread: the process runs, and may not answer yet."""
        if not self.alive():
            if self.process:
                self.process.kill()
            self.process = self._spawn()

    def await_ready(self) -> None:
        """The second half, for any thread."""
        if self.process:
            self._await(self.process)

    def stop(self) -> None:
        """Send SIGTERM, wait for a few seconds, then SIGKILL."""
        if self.process:
            self.process.stop()

    def kill(self) -> None:
        """Send SIGKILL, to simulate a crash."""
        if self.process:
            self.process.kill()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @abstractmethod
    def _spawn(self) -> Process: ...

    @abstractmethod
    def _answers(self) -> bool:
        """Return whether the server answers within two seconds."""

    @abstractmethod
    def __str__(self) -> str: ...

    def _await(self, process: Process) -> None:
        deadline = time.monotonic() + self._ready_seconds
        while time.monotonic() < deadline:
            if self._answers():
                return
            if process.wait(0.01):
                break
        limit = f"within {self._ready_seconds:g} s"
        what = f"did not answer {limit}" if process.alive() else "exited before it answered"
        process.kill()
        raise EnvironmentNotReady(f"{self} {what}. Last lines of {self.log}:\n{tail(self.log)}")


def tail(log: Path) -> str:
    """Return the last lines of a log file, or ``(no log)``."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-12:]) or "(empty)"
    except FileNotFoundError:
        return "(no log)"
