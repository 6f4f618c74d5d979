"""A broker of one cell's own, for messages only: a Redis that is killed, emptied, or in trouble for a while, or a RabbitMQ node
that is killed. Leases and results stay elsewhere.
"""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

from tasks_demo.demo.stack.redis import EmbeddedRedis
from tasks_demo.demo.stack.server import EmbeddedServer
from tasks_demo.lab.plan.brokers import BrokerKind
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.processes.brokers.protocol import Holdings
from tasks_demo.lab.processes.brokers.rabbitmq import RabbitLane
from tasks_demo.lab.processes.brokers.redis import RedisLane
from tasks_demo.lab.processes.brokers.reliable import ReliableLane
from tasks_demo.lab.processes.servers.rabbitmq import RabbitNode

#: Maximum time until Redis refuses writes, seconds.
_REFUSED_SECONDS = 2.0


class _Redis(EmbeddedRedis):
    """A server that outlives a write beyond its limit on the size of files: it sees an error, as on a full disk."""

    def _command(self) -> list[str]:
        return ["/bin/sh", "-c", """trap '' XFSZ; exec "$0" "$@\"""", *super()._command()]


class FaultyBroker:
    """The server of one cell, and what happens to it.

    ``launch`` must be called from the main thread, because it starts a process.
    """

    lane: RedisLane | RabbitLane

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server

    @property
    def pid(self) -> int:
        """Of the server; 0 while none runs."""
        return self._server.process.pid if self._server.process else 0

    def launch(self) -> None:
        """Start the server, or start it again on what it has written."""
        self._server.launch()

    def await_ready(self) -> None:
        """Return when it answers. Raises EnvironmentNotReady if it does not."""
        self._server.await_ready()

    def kill(self) -> tuple[int, Holdings]:
        """SIGKILL the server; return its pid, and what it held."""
        pid, held = self.pid, self.lane.holdings()
        self._server.kill()
        self.lane.disconnect()
        return pid, held

    def stop(self) -> None:
        self._server.stop()


class FaultyRabbit(FaultyBroker):
    """A RabbitMQ node, that is killed."""

    def __init__(self, kind: BrokerKind, folder: Path, cell: str) -> None:
        """Raises EnvironmentNotReady if RabbitMQ is not installed."""
        node = RabbitNode(folder)
        super().__init__(node)
        self.lane: RabbitLane = RabbitLane(node.url, cell, kind.queue, folder)


class FaultyRedis(FaultyBroker):
    """A Redis server, and the ``fault`` that happens to it."""

    def __init__(self, kind: BrokerKind, folder: Path, socket: Path, fault: Fault) -> None:
        self._redis = _Redis(folder, socket, appendonly=fault.appendonly or "everysec")
        super().__init__(self._redis)
        self._fault = fault
        lanes = {"reliable": ReliableLane}.get(kind.family, RedisLane)
        self.lane: RedisLane = lanes(f"unix://{socket}", "")

    def flush(self) -> tuple[int, Holdings]:
        """Delete everything; return the server's pid, and what it held."""
        held = self.lane.holdings()
        self.lane.client.flushall()
        return self.pid, held

    def disturb(self, wait: Callable[[float], object], seconds: float) -> str:
        """Run the outage for ``seconds``, measured by ``wait``. Return why there was none, or ""."""
        with self._outage():
            if not self._refuses_writes():
                return "the server took writes"
            wait(seconds)
            return ""

    @contextlib.contextmanager
    def _outage(self) -> Iterator[None]:
        if self._fault is Fault.BROKER_DISK_FULL:
            limit = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
            files = [
                file for file in self._redis.folder.rglob("appendonly*") if file.is_file()
            ]  # several since Redis 7
            size = max(file.stat().st_size for file in files)
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size, limit[1]))
            try:
                yield
            finally:
                resource.prlimit(self.pid, resource.RLIMIT_FSIZE, limit)
            return
        client: Any = self.lane.client
        begin, end = {
            Fault.BROKER_FULL: (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
            # The master does not exist: the server keeps what it has.
            Fault.BROKER_READ_ONLY: (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        }[self._fault]
        client.execute_command(*begin)
        try:
            yield
        finally:
            client.execute_command(*end)

    def _refuses_writes(self) -> bool:
        """Whether it does; of a full disk it learns by a write that it takes."""
        deadline = time.monotonic() + _REFUSED_SECONDS
        while time.monotonic() < deadline:
            try:
                self.lane.client.set("lab:probe", "1")
            except redis.ResponseError:
                return True
        return False
