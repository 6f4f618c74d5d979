"""The bank as a child process of ours, on a loopback port that the kernel chose."""

from __future__ import annotations

import http.client
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.stack.processes import Process, project_environment, spawn
from tasks_demo.demo.stack.server import EmbeddedServer

HOST = "127.0.0.1"


class EmbeddedBank(EmbeddedServer):
    """A running bank: the command ``bank`` of this project in a process of its own.

    Its database is the one that its environment names (``BANK_DATABASE_URL``); it migrates that itself.

    :param log: where its output goes.
    :param env: added to our environment.
    :param arguments: further arguments of the command, for example ``["--faults"]``.

    ``kill`` then ``start`` keeps the address. In between, connections are refused. Not guaranteed: that no other process
    takes the port meanwhile; then ``start`` raises EnvironmentNotReady.
    """

    def __init__(
        self,
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        ready_seconds: float = 60.0,
    ) -> None:
        super().__init__(log, ready_seconds)
        self._env = dict(env or {})
        self._arguments = list(arguments)
        self._port = 0

    def __str__(self) -> str:
        return "The bank"

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``; the port is known once it has been started."""
        return f"http://{HOST}:{self._port}"

    def _spawn(self) -> Process:
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
            return spawn(
                [*command, *self._arguments],
                log=self.log,
                env={**project_environment(), **self._env},
                pass_fds=[listening.fileno()],
            )

    def _answers(self) -> bool:
        return healthy(HOST, self._port)


def healthy(host: str, port: int, seconds: float = 2.0) -> bool:
    """Return True if ``GET /health`` answers 200 within about that many seconds."""
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
