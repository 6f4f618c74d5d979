"""A real primary, replica and sentinel."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from tasks_demo.leases.redis_client import connect
from tests.integration.servers.redis import EMBEDDED
from tests.support import free_port, until

#: Milliseconds until the sentinel calls a primary down that was killed; the vote and the promotion come after that. One that is
#: only starved must not be called down.
DOWN_MS, STARVED_MS = 500, 60_000
PASSWORD = "s/cret:p@ss"
ENCODED = "s%2Fcret%3Ap%40ss"


class Servers:
    """A primary, its replica and one sentinel, each on its own port."""

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
            f'sentinel auth-pass mymaster "{PASSWORD}"\nsentinel down-after-milliseconds mymaster {STARVED_MS}\n'
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

    def kill_primary(self) -> None:
        """SIGKILL the first server, which the sentinel then finds down soon."""
        self.processes[self.first].kill()
        self.asked.execute_command("SENTINEL", "SET", "mymaster", "down-after-milliseconds", DOWN_MS)

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
