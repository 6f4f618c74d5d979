"""The bank as a child process of ours, on a loopback port that the kernel chose."""

from __future__ import annotations

import http.client
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.stack.processes import Process, project_environment, spawn
from tasks_demo.demo.stack.redis import tail

HOST = "127.0.0.1"


class EmbeddedBank:
    """A running bank for as long as the ``with`` block lasts: the command ``bank`` of this project in a process of its own.

    Its database is the one that its environment names (``BANK_DATABASE_URL``); it migrates that itself.

    :param log: where its output goes.
    :param env: added to our environment.
    :param arguments: further arguments of the command, for example ``["--faults"]``.
    :raises EnvironmentNotReady: it does not answer ``GET /health`` with 200 within ``ready_seconds``.

    ``kill`` then ``start`` keeps the address. In between, connections are refused; another process could take the
    port meanwhile, and then ``start`` says so.
    """

    def __init__(
        self,
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        ready_seconds: float = 60.0,
    ) -> None:
        self.log = log
        self._env = dict(env or {})
        self._arguments = list(arguments)
        self._ready_seconds = ready_seconds
        self._port = 0
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``; the port is known once it has been started."""
        return f"http://{HOST}:{self._port}"

    @property
    def process(self) -> Process | None:
        """The bank's process, if it was started."""
        return self._process

    def alive(self) -> bool:
        """True while the bank's process runs."""
        return self._process is not None and self._process.alive()

    def start(self) -> None:
        """Start, or start again after ``kill``, and return when it answers."""
        if self.alive():
            return
        if self._process:
            self._process.kill()
        # Bound here, so that the address is known and taken before the bank exists. Closed here once the bank has its
        # copy: with ours still open, a dead bank would not refuse connections but let them hang.
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind((HOST, self._port))
            except OSError as error:
                raise EnvironmentNotReady(
                    f"The bank cannot have its port {self._port} back ({error.strerror}): it is down."
                ) from error
            listening.listen(128)
            self._port = listening.getsockname()[1]
            # Not by manage.py: only the project knows where that is.
            command = [sys.executable, "-m", "django", "bank", "--fd", str(listening.fileno())]
            self._process = spawn(
                [*command, *self._arguments],
                log=self.log,
                env={**project_environment(), **self._env},
                pass_fds=[listening.fileno()],
            )
        self._await_health(self._process)

    def stop(self) -> None:
        """SIGTERM, bounded wait, then SIGKILL."""
        if self._process:
            self._process.stop()

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        if self._process:
            self._process.kill()

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

    def _await_health(self, process: Process) -> None:
        deadline = time.monotonic() + self._ready_seconds
        while (left := deadline - time.monotonic()) > 0:
            if healthy(HOST, self._port, seconds=min(left, 2.0)):
                return
            if process.wait(0.02):
                break
        what = "did not answer in time" if process.alive() else "ended at once"
        process.kill()
        raise EnvironmentNotReady(
            f"The bank {what} (limit {self._ready_seconds:g} s). Last lines of {self.log}:\n{tail(self.log)}"
        )


def healthy(host: str, port: int, seconds: float = 2.0) -> bool:
    """True if ``GET /health`` answers 200 within about that many seconds."""
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
