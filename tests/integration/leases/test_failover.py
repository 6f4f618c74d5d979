"""Redis failover with a real primary, replica and sentinel: leases work again within seconds, with either kind of address."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from tasks_demo.core.exceptions import LeaseStoreUnavailable
from tasks_demo.leases.protocol import Claimed, Completed, Held
from tasks_demo.leases.redis_client import connect
from tasks_demo.leases.redis_store import RedisLeaseStore
from tests.integration.servers.redis import EMBEDDED
from tests.support import until

DIGEST = "d" * 64
#: Milliseconds until the sentinel calls a primary down; the vote and the promotion come after that.
DOWN_MS, BOUND_SECONDS = 500, 20.0
PASSWORD = "s/cret:p@ss"
ENCODED = "s%2Fcret%3Ap%40ss"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class Servers:
    """The three servers, each on its own port."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack, self._folder = stack, folder
        self.first, self.second, self.sentinel = free_port(), free_port(), free_port()
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        secret = ["--requirepass", PASSWORD, "--masterauth", PASSWORD, "--save", "", "--repl-diskless-sync-delay", "0"]
        self._start(self.first, *secret)
        self._start(self.second, *secret, "--replicaof", "127.0.0.1", str(self.first))
        until(lambda: self.role(self.second) == "slave" and self.info(self.second)["master_link_status"] == "up")
        conf = folder / "sentinel.conf"
        conf.write_text(
            f"port {self.sentinel}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {self.first} 1\n"
            f'sentinel auth-pass mymaster "{PASSWORD}"\nsentinel down-after-milliseconds mymaster {DOWN_MS}\n'
            "sentinel failover-timeout mymaster 3000\n"
        )
        self._spawn(self.sentinel, [EMBEDDED, str(conf), "--sentinel"])
        asked: Any = self._stack.enter_context(connect(f"redis://127.0.0.1:{self.sentinel}/0", 2.0))
        until(lambda: answers(asked) and asked.sentinel_master("mymaster")["num-slaves"] == 1)
        self.asked = asked

    def _start(self, port: int, *options: str) -> None:
        folder = self._folder / str(port)
        folder.mkdir()
        command = [EMBEDDED, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), *options]
        self._spawn(port, command)
        until(lambda: answers(self.client(port)))

    def _spawn(self, port: int, command: list[str]) -> None:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=self._folder)
        self.processes[port] = process
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)

    def client(self, port: int) -> Any:
        return self._stack.enter_context(connect(f"redis://:{ENCODED}@127.0.0.1:{port}/0", 2.0))

    def info(self, port: int) -> dict[str, Any]:
        return dict(self.client(port).info("replication"))

    def role(self, port: int) -> str:
        return str(self.info(port)["role"])


def answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.fixture
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="failover-")))
        yield Servers(stack, folder)


def store_at(url: str) -> RedisLeaseStore:
    return RedisLeaseStore(connect(url, 1.0), "t:", 30, 3600)


def claims(store: RedisLeaseStore, operation: str) -> bool:
    try:
        return isinstance(store.claim(operation, DIGEST), Claimed | Held)
    except LeaseStoreUnavailable:
        return False


@pytest.mark.parametrize(
    "spelling",
    [
        "sentinel://:{p}@127.0.0.1:{s},127.0.0.1:1/0?master=mymaster",
        "sentinel://:{p}@127.0.0.1:1;sentinel://:{p}@127.0.0.1:{s}/0?master=mymaster",
    ],
)
def test_behind_sentinels_the_killed_primary_is_left_for_the_new_one(servers: Servers, spelling: str) -> None:
    store = store_at(spelling.format(p=ENCODED, s=servers.sentinel))
    done = store.claim("done", DIGEST)
    assert isinstance(done, Claimed)
    assert store.complete(done, "1")
    servers.client(servers.first).wait(1, 5000)
    servers.processes[servers.first].kill()
    servers.processes[servers.first].wait()
    began = time.monotonic()
    until(lambda: claims(store, "next"), seconds=BOUND_SECONDS)
    assert time.monotonic() - began < BOUND_SECONDS
    assert servers.role(servers.second) == "master"
    assert store.claim("done", DIGEST) == Completed("1")


def test_a_connection_that_says_not_me_is_closed(servers: Servers) -> None:
    """The old primary stays up as a replica; without the close, a client behind a moving address would keep asking it."""
    store = store_at(f"redis://:{ENCODED}@127.0.0.1:{servers.first}/0")
    assert claims(store, "before")
    old = servers.client(servers.first)
    count = [line for line in old.client_list() if line["cmd"].startswith("eval")]
    assert len(count) == 1
    old.execute_command("REPLICAOF", "127.0.0.1", str(servers.second))
    with pytest.raises(LeaseStoreUnavailable, match=r"READONLY|read only replica"):
        store.claim("after", DIGEST)
    assert store._client._idle == []  # type: ignore[attr-defined]
    until(lambda: not [line for line in old.client_list() if line["cmd"].startswith("eval")])
