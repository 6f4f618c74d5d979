"""A RabbitMQ node that tests may configure and kill, with its own loopback ports and its own epmd."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Self

import amqp
import psutil
import pytest

from tests.support import ends_with_us, until


class RabbitServer:
    """Survives ``kill`` (SIGKILL): durable queues and persistent messages are there after ``start``."""

    def __init__(self, folder: Path, program: str, config: str = "", erlang: str = "") -> None:
        """``config``: of rabbitmq.conf; ``erlang``: arguments for what cannot be written there."""
        self.folder = folder
        self._erlang = erlang
        self._program = program
        self.port, self._distribution, self._epmd_port = _free_ports(3)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        (folder / "rabbitmq.conf").write_text(config)
        (folder / "plugins").write_text("[].")
        self._process: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def for_rabbitmqctl(self) -> dict[str, str]:
        """The environment in which ``rabbitmqctl`` finds this node."""
        return {
            "PATH": f"{Path(self._program).parent}:/usr/sbin:/usr/bin:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "RABBITMQ_NODENAME": f"t{self.port}@localhost",
            "ERL_EPMD_PORT": str(self._epmd_port),
        }

    def vhosts(self) -> set[str]:
        """The names of its virtual hosts."""
        command = ["rabbitmqctl", "--quiet", "--no-table-headers", "list_vhosts"]
        done = subprocess.run(command, env=self.for_rabbitmqctl, check=True, capture_output=True, text=True, timeout=60)
        return set(done.stdout.split())

    def start(self) -> None:
        environment = {
            "PATH": f"/usr/sbin:/usr/bin:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"t{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            # One scheduler without busy waiting: the node shares two cores with the tests.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 1:1 +sbwt none {self._erlang}",
        }
        with open(self.folder / "out", "ab") as out:
            if self._epmd is None:
                self._epmd = subprocess.Popen(
                    [*ends_with_us("KILL"), str(shutil.which("epmd")), "-port", str(self._epmd_port)],
                    env=environment,
                    stderr=out,
                )
            self._process = subprocess.Popen(
                [*ends_with_us("TERM"), self._program], env=environment, stdout=out, stderr=out
            )
        until(self._answers, "an answer of RabbitMQ", 150)

    def kill(self) -> None:
        """SIGKILL the node; it is gone when this returns."""
        _kill(self._process)
        self._process = None

    def close(self) -> None:
        """Stop the node and its epmd."""
        self.kill()
        _kill(self._epmd)
        self._epmd = None

    def depth(self, queue: str) -> int:
        """Messages ready in a queue; unacknowledged messages do not count."""
        with amqp.Connection(f"127.0.0.1:{self.port}") as connection:
            return int(connection.channel().queue_declare(queue, passive=True).message_count)

    @contextlib.contextmanager
    def without(self, *queues: str) -> Iterator[None]:
        """Delete these queues and their messages, now and afterwards. (A queue cannot be declared anew with other arguments.)"""
        self._delete(*queues)
        yield
        self._delete(*queues)

    def _delete(self, *queues: str) -> None:
        with amqp.Connection(f"127.0.0.1:{self.port}") as connection:
            for queue in queues:
                connection.channel().queue_delete(queue)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "out").read_text(errors="replace")[-3000:]
        connection = amqp.Connection(f"127.0.0.1:{self.port}", connect_timeout=2)
        try:
            connection.connect()
        except (OSError, amqp.AMQPError):
            return False
        finally:
            connection.collect()
        return True

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _kill(process: subprocess.Popen[bytes] | None) -> None:
    if process is None:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for one in everyone:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait(10)
        psutil.wait_procs(everyone, timeout=10)


def _free_ports(many: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(many)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def rabbitmq_program() -> str:
    """The server's start script. Without it on this machine the test is skipped, except in CI."""
    found = sorted(glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"))
    program = found[-1] if found else None
    if program is None or shutil.which("epmd") is None:
        assert not os.environ.get("CI"), "CI must have RabbitMQ's server"
        pytest.skip("RabbitMQ's server is not installed; the same tests run on Redis")
    return program


@contextlib.contextmanager
def own_rabbitmq(config: str = "", erlang: str = "") -> Iterator[RabbitServer]:
    """A running node, configured like this. It takes about 5 s to start: share it where possible."""
    program = rabbitmq_program()
    with (
        tempfile.TemporaryDirectory(prefix="rabbit-") as folder,
        RabbitServer(Path(folder), program, config, erlang) as server,
    ):
        yield server


@contextlib.contextmanager
def queue_name(server: RabbitServer) -> Iterator[str]:
    """A queue name that nobody else uses; the queue is deleted afterwards."""
    name = f"test-{secrets.token_hex(6)}"
    with server.without(name):
        yield name


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitServer]:
    """One node for all tests that do not break it."""
    with own_rabbitmq() as server:
        yield server
