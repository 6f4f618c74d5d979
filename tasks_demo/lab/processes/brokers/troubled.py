"""A Redis of one cell's own, for messages only, that is killed, emptied, or in trouble for a while. Leases and results stay
elsewhere.
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
from tasks_demo.lab.plan.brokers import BrokerKind
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.processes.brokers.protocol import Holdings
from tasks_demo.lab.processes.brokers.redis import RedisLane
from tasks_demo.lab.processes.brokers.reliable import ReliableLane

#: Maximum time until Redis refuses writes, seconds.
_REFUSED_SECONDS = 2.0


class _Redis(EmbeddedRedis):
    """A server that outlives a write beyond its limit on the size of files: it sees an error, as on a full disk."""

    def _command(self) -> list[str]:
        return ["/bin/sh", "-c", """trap '' XFSZ; exec "$0" "$@\"""", *super()._command()]


class TroubledRedis:
    """The server, and the ``fault`` that happens to it.

    ``start`` and ``kill_and_start`` must be called from the main thread, because they start a process.
    """

    def __init__(self, kind: BrokerKind, folder: Path, socket: Path, fault: Fault) -> None:
        self._server = _Redis(folder, socket, appendonly=fault.appendonly or "everysec")
        self._fault = fault
        lanes = {"reliable": ReliableLane}.get(kind.family, RedisLane)
        self.lane: RedisLane = lanes(f"unix://{socket}", "")

    @property
    def pid(self) -> int:
        """Of the server; 0 while none runs."""
        return self._server.process.pid if self._server.process else 0

    def start(self) -> None:
        self._server.start()

    def kill_and_start(self) -> tuple[int, Holdings]:
        """SIGKILL the server, start it again on what it has written; return the pid of the killed one, and what it held."""
        pid, held = self.pid, self.lane.holdings()
        self._server.kill()
        self._server.start()
        self.lane.client.connection_pool.disconnect()
        return pid, held

    def flush(self) -> tuple[int, Holdings]:
        """Delete everything; return the server's pid, and what it held."""
        held = self.lane.holdings()
        self.lane.client.flushall()
        return self.pid, held

    def disturb(self, wait: Callable[[float], object], seconds: float) -> str:
        """Let the outage last for so many seconds, by ``wait``. Return why it was none, or ""."""
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
                file for file in self._server.folder.rglob("appendonly*") if file.is_file()
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

    def stop(self) -> None:
        self._server.stop()
