"""The bank as a child process, on a loopback port chosen by the kernel."""

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
#: Maximum time to migrate and to answer, seconds.
READY_SECONDS = 60.0


class EmbeddedBank(EmbeddedServer):
    """A running bank: the project's command ``bank`` in a child process.

    It migrates its database, which its environment names (``BANK_DATABASE_URL``).

    :param log: the file for its output.
    :param env: added to this process's environment.
    :param arguments: further arguments of the command, for example ``["--faults"]``.

    ``kill`` and then ``start`` keep the address; in between, connections are refused. Does **not** prevent other processes from
    taking the port meanwhile; then ``start`` raises EnvironmentNotReady.
    """

    def __init__(
        self,
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        super().__init__(log, READY_SECONDS)
        self._env = dict(env or {})
        self._arguments = list(arguments)
        self._port = 0

    def __str__(self) -> str:
        return "The bank"

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``; the port is known after ``start``."""
        return f"http://{HOST}:{self._port}"

    def _spawn(self) -> Process:
        # Bound here, so that the address is known and reserved before the bank runs. Closed here when the bank has its copy:
        # while a copy is open here, connections to a dead bank would hang instead of being refused.
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind((HOST, self._port))
            except OSError as error:
                raise EnvironmentNotReady(
                    f"The bank was not started: its port {self._port} cannot be bound again ({error.strerror})."
                ) from error
            listening.listen(128)
            self._port = listening.getsockname()[1]
            # Not manage.py, whose location only the project knows.
            command = [sys.executable, "-m", "django", "bank", "--fd", str(listening.fileno())]
            return spawn(
                [*command, *self._arguments],
                log=self.log,
                env={**project_environment(), **self._env},
                pass_fds=[listening.fileno()],
            )

    def _answers(self) -> bool:
        return healthy(HOST, self._port)


def healthy(host: str, port: int, path: str = "/health") -> bool:
    """Return True if a GET of that path answers 200 within about two seconds."""
    connection = http.client.HTTPConnection(host, port, timeout=2.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
