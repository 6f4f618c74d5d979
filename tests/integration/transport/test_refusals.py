"""Every way in which a real Redis says that it takes no writes is one error, to a command and to a script."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection

from tasks_demo.transport.lua import Script
from tasks_demo.transport.refusals import WritesRefused
from tests.integration.servers.redis import BINARIES, RedisServer
from tests.support import until

WRITES = Script.of("writes", "return redis.call('LPUSH', KEYS[1], '1')")


@pytest.fixture(params=list(BINARIES))
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    binary = BINARIES[request.param]
    if binary is None:
        pytest.skip("no redis-server on this system; the embedded one is tested")
    with tempfile.TemporaryDirectory(prefix="refusals-") as folder, RedisServer(Path(folder), binary) as running:
        yield running


def replica(client: Any) -> None:
    client.execute_command("REPLICAOF", "127.0.0.1", "1")


def too_few_replicas(client: Any) -> None:
    client.config_set("min-replicas-to-write", 1)


def memory(client: Any) -> None:
    client.config_set("maxmemory", 1)


def disk(client: Any) -> None:
    """A snapshot that cannot be written: there is a folder of that name."""
    Path(client.config_get("dir")["dir"], client.config_get("dbfilename")["dbfilename"]).mkdir()
    client.config_set("save", "3600 1")
    client.bgsave()
    until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "the failed snapshot")


@pytest.mark.parametrize("why", [replica, too_few_replicas, memory, disk])
def test_refusal_of_writes_is_a_lost_connection_to_commands_and_scripts(
    server: RedisServer, why: Callable[[Any], None]
) -> None:
    with Connection(f"reliable+socket://{server.socket}") as connection, server.client() as client:
        plain = connection.default_channel.plain()
        why(client)
        with pytest.raises(WritesRefused):
            plain.lpush("list", "1")
        with pytest.raises(WritesRefused):
            WRITES.run(plain, ["list"])
        assert issubclass(WritesRefused, connection.connection_errors)


def test_mistake_in_a_command_is_not_a_refusal(server: RedisServer) -> None:
    with Connection(f"reliable+socket://{server.socket}") as connection:
        plain = connection.default_channel.plain()
        plain.set("text", "1")
        with pytest.raises(redis.ResponseError) as raised:
            plain.lpush("text", "1")
    assert not isinstance(raised.value, WritesRefused)
