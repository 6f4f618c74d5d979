"""A RabbitMQ node that tests may configure and kill: the lab's own, with what tests ask it."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import amqp
import pytest

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.lab.processes.servers.rabbitmq import RabbitNode


class RabbitServer(RabbitNode):
    """Survives ``kill`` (SIGKILL): durable queues and persistent messages are there after ``start``."""

    @property
    def for_rabbitmqctl(self) -> dict[str, str]:
        """The environment in which ``rabbitmqctl`` finds this node. What has LC_ALL is not forked, and LANG may do as well."""
        enough = os.environ.get("LANG", "").endswith("UTF-8")
        return {name: value for name, value in self.environment.items() if name != "LC_ALL" or not enough}

    def vhosts(self) -> set[str]:
        """The names of its virtual hosts."""
        command = ["rabbitmqctl", "--quiet", "--no-table-headers", "list_vhosts"]
        done = subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True, timeout=60)
        return set(done.stdout.split())

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


@contextlib.contextmanager
def own_rabbitmq(config: str = "", erlang: str = "") -> Iterator[RabbitServer]:
    """A running node, configured like this. It takes about 5 s to start: share it where possible.

    Without RabbitMQ on this machine the test is skipped, except in CI.
    """
    with tempfile.TemporaryDirectory(prefix="rabbit-") as folder:
        try:
            server = RabbitServer(Path(folder), config=config, erlang=erlang)
        except EnvironmentNotReady:
            assert not os.environ.get("CI"), "CI must have RabbitMQ's server"
            pytest.skip("RabbitMQ's server is not installed; the same tests run on Redis")
        with server:
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
