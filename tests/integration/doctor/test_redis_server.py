"""What the doctor says about a Redis server: configuration, rights, clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks_demo.doctor.database import clock
from tasks_demo.doctor.findings import State
from tasks_demo.doctor.redis_server import OLDEST
from tests.integration.doctor.doctor_command import doctor, not_ready, rows_of
from tests.integration.servers.redis import EMBEDDED, RedisServer
from tests.support import Home, together

pytestmark = pytest.mark.timeout(120)


def test_redis_with_eviction_and_without_persistence_breaks_promises(home: Home, short: Path) -> None:
    unsafe = ("--appendonly", "no", "--maxmemory-policy", "allkeys-lru", "--maxmemory", "50mb")
    with RedisServer(short, EMBEDDED, *unsafe) as server:
        seen = doctor(home, REDIS_URL=server.url)
        shown = home.manage("doctor", env={"REDIS_URL": server.url})
    assert seen.code == shown.code == 1, seen.whole
    assert seen.failed() == {"eviction", "persistence"}
    assert "drops queues, leases and completed markers" in seen.row("eviction")["seen"]
    assert "a restart loses every queued job" in seen.row("persistence")["seen"]
    assert "promises would be broken" in shown.out


@pytest.mark.parametrize(
    ("options", "what", "state", "said"),
    [
        (
            {"maxmemory": "50mb", "maxmemory-policy": "volatile-ttl"},
            "eviction",
            State.FAIL,
            "drops leases and completed",
        ),
        ({"maxmemory-policy": "allkeys-lru"}, "eviction", State.WARN, "but maxmemory is not set"),
        ({"appendfsync": "no"}, "persistence", State.WARN, "the kernel has not written"),
        ({"appendfsync": "always"}, "persistence", State.OK, "loses no acknowledged write"),
        ({"appendonly": "no", "save": "60 1"}, "persistence", State.WARN, "snapshots only"),
        ({"appendonly": "no"}, "persistence", State.FAIL, "none"),
        ({"maxmemory": "nearly full"}, "memory", State.WARN, "no job can be published"),
        ({"maxmemory": "100mb"}, "memory", State.OK, "of 100.0 MiB used"),
        ({"maxmemory": "1"}, "writes of broker", State.FAIL, "refused: OutOfMemoryError"),
        ({"min-replicas-to-write": "1"}, "writes of broker", State.FAIL, "NOREPLICAS"),
    ],
    ids=str,
)
def test_redis_configuration_is_judged(
    options: dict[str, str], what: str, state: State, said: str, server: RedisServer
) -> None:
    with server.client() as client:
        for name, value in options.items():
            # The memory of an empty server depends on its build.
            nearly = int(client.info("memory")["used_memory"] * 1.03)
            client.config_set(name, str(nearly) if value == "nearly full" else value)
    row = rows_of(server)[what]
    assert (row.state, row.ready) == (state, what != "writes of broker"), row
    assert said in row.seen
    assert bool(row.fix) == (state is not State.OK)


def test_redis_of_results_is_only_convenient(short: Path) -> None:
    with RedisServer(
        short, EMBEDDED, "--appendonly", "no", "--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"
    ) as bare:
        rows = rows_of(bare, role="results", needed=False)
    assert (rows["eviction"].state, rows["persistence"].state) == (State.WARN, State.WARN)


def test_redis_that_is_old_cannot_redeliver(monkeypatch: pytest.MonkeyPatch, server: RedisServer) -> None:
    monkeypatch.setattr("tasks_demo.doctor.redis_server.OLDEST", (99, 0))
    assert OLDEST == (6, 2)
    assert rows_of(server)["version"].state is State.FAIL


def test_redis_that_is_not_there_is_code_4_and_says_what_starts_it(home: Home) -> None:
    embedded, other = together([lambda: doctor(home), lambda: doctor(home, REDIS_URL="redis://127.0.0.1:1/0")], 2)
    for seen in (embedded, other):
        not_ready(seen)
        assert seen.failed() == {"broker", "results", "leases"}
    assert "`python manage.py redis`" in embedded.row("broker", "connections")["fix"]
    assert "`make up`" in embedded.row("leases", "connections")["fix"]
    assert "CELERY_BROKER_URL" in other.row("broker", "connections")["fix"]
    shown = home.manage("doctor", env={"REDIS_URL": "redis://127.0.0.1:1/0"})
    assert shown.code == 4
    assert "Not ready" in shown.out


def test_redis_replica_that_is_read_only_cannot_be_used(home: Home, server: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
    seen = doctor(home, REDIS_URL=server.url)
    not_ready(seen)
    assert seen.failed() == {f"writes of {role}" for role in ("broker", "results", "leases")}
    assert "This is a replica" in seen.row("writes of leases")["fix"]


def test_redis_without_config_is_examined_by_info(home: Home, server: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "tenant", "on", ">pw", "~*", "&*", "+@all", "-config", "-client")
    seen = doctor(home, REDIS_URL=server.url.replace("unix://", "unix://tenant:pw@"))
    assert seen.code == 0, seen.whole
    assert seen.row("eviction")["state"] == "ok"
    assert "appendfsync unknown (CONFIG is refused)" in seen.row("persistence")["seen"]
    assert "CLIENT LIST is refused" in seen.row("other users")["seen"]


def test_redis_user_who_may_do_little_gets_sentences(home: Home, server: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "guest", "on", ">pw", "~other:*", "+ping", "+time", "+set")
    seen = doctor(home, REDIS_URL=server.url.replace("unix://", "unix://guest:pw@"))
    not_ready(seen)
    assert "INFO is refused" in seen.row("settings")["seen"]
    assert "unknown: NoPermissionError" in seen.row("dead letters")["seen"]
    assert "ACL SETUSER" in seen.row("writes of broker")["fix"]


@pytest.mark.parametrize(
    ("theirs", "state", "said"),
    [
        (100.0, State.OK, "at most 0.0 s from ours"),
        (101.4, State.OK, "at most 0.9 s from ours"),
        (102.0, State.WARN, "1.5 s ahead of ours"),
        (90.0, State.WARN, "10.0 s behind ours"),
    ],
)
def test_redis_clock_is_judged_by_the_moments_around_the_question(theirs: float, state: State, said: str) -> None:
    row = clock("Redis", theirs, before=100.0, after=100.5)
    assert row.state is state
    assert said in row.seen
