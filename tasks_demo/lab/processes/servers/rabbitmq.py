"""A RabbitMQ node of the lab's own, which it may kill: on loopback ports, with an epmd and a folder of its own.

Durable queues and persistent messages survive ``kill`` (SIGKILL). Power failures are not tested. Nothing is downloaded: the
server must be installed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from glob import glob
from pathlib import Path

import amqp

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.stack.processes import Process, spawn
from tasks_demo.demo.stack.server import EmbeddedServer

_SYSTEM_PATH = "/usr/sbin:/usr/bin"
#: A node starts in 5 s, and in a minute on a busy machine.
_READY_SECONDS = 150.0


class RabbitNode(EmbeddedServer):
    """A node whose data are kept in ``folder``. ``pid`` is the node's own, so that a kill hits it and not a script."""

    def __init__(self, folder: Path, *, config: str = "", erlang: str = "") -> None:
        """``config``: of rabbitmq.conf; ``erlang``: arguments for what cannot be written there.

        Raises EnvironmentNotReady if RabbitMQ is not installed.
        """
        super().__init__(folder / "out", _READY_SECONDS)
        self.folder = folder
        self._erlang = erlang
        self._program = program()
        self.port, self._distribution, self._epmd_port = _free_ports(3)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "rabbitmq.conf").write_text(config)
        (folder / "plugins").write_text("[].")
        self._epmd: Process | None = None

    def __str__(self) -> str:
        return f"The lab's RabbitMQ in {self.folder}"

    @property
    def name(self) -> str:
        """Of the Erlang node."""
        return f"t{self.port}@localhost"

    @property
    def environment(self) -> dict[str, str]:
        """Of its processes, and of ``rabbitmqctl`` for this node."""
        return {
            "PATH": f"{Path(self._program).parent}:{_SYSTEM_PATH}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
        }

    def _spawn(self) -> Process:
        if self._epmd is None:
            epmd = ["epmd", "-port", str(self._epmd_port)]
            self._epmd = spawn(epmd, log=self.folder / "epmd.log", env=self.environment)
        environment = {
            **self.environment,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            # The start script becomes the node, instead of waiting for it: it ends with us, and its pid is the node's.
            "RUNNING_UNDER_SYSTEMD": "1",
            # One scheduler without busy waiting: the node shares the machine with workers.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 1:1 +sbwt none {self._erlang}",
        }
        return spawn([self._program], log=self.log, env=environment)

    def stop(self) -> None:
        """SIGKILL the node and its epmd: nobody needs its data any more."""
        self.kill()
        if self._epmd:
            self._epmd.kill()
            self._epmd = None

    def _answers(self) -> bool:
        connection = amqp.Connection(f"127.0.0.1:{self.port}", connect_timeout=2)
        try:
            connection.connect()
        except (OSError, amqp.AMQPError):
            return False
        finally:
            connection.collect()
        return True


def program() -> str:
    """The server's start script. Raises EnvironmentNotReady if it or epmd is missing."""
    found = sorted(glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"))
    if not found or shutil.which("epmd", path=f"{_SYSTEM_PATH}:{os.environ['PATH']}") is None:
        raise EnvironmentNotReady(
            "RabbitMQ is not installed on this machine, and the lab kills only a node that it has started itself. Install it "
            "(Debian: apt-get install rabbitmq-server), or leave this fault out."
        )
    return found[-1]


def _free_ports(many: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(many)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
