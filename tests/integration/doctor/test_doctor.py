"""manage.py doctor on a safe stack, its table, its usage, and what is left afterwards."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tasks_demo.doctor.findings import Finding, State, side_by_side
from tests.integration.doctor.doctor_command import doctor
from tests.integration.servers.redis import RedisServer
from tests.support import PROJECT, Home, Worker, until

pytestmark = pytest.mark.timeout(120)


def test_doctor_finds_a_safe_stack_well(home: Home, server: RedisServer) -> None:
    seen = doctor(home, REDIS_URL=server.url)
    assert seen.code == 0, seen.whole
    assert seen.failed() == set()
    assert seen.row("broker", "connections")["seen"] == f"reliable+socket://{server.socket}"
    assert seen.row("version")["seen"].startswith("Redis ")
    assert seen.row("eviction")["seen"].startswith("noeviction")
    assert "appendfsync everysec" in seen.row("persistence")["seen"]
    assert seen.row("other users")["seen"].startswith("no keys of others")
    assert seen.row("migrations", "database default")["seen"] == "all applied"
    assert [seen.row(f"writes of {role}")["state"] for role in ("broker", "results", "leases")] == ["ok"] * 3
    # A warning only: the bank is not running here.
    assert seen.row("bank", "connections")["state"] == "warn"


def test_doctor_knows_the_reliable_transport(home: Home, server: RedisServer) -> None:
    """It asks the Redis behind it, takes the transport's keys for ours, and expects no redelivery after a timeout."""
    url = f"reliable+socket://{server.socket}"
    with server.client() as client:
        client.set("_kombu.claims.watcher", "x")
        client.hset("unacked", "tag", "x")
        client.zadd("unacked_index", {"tag": 1})
    seen = doctor(home, REDIS_URL=server.url, CELERY_BROKER_URL=url)
    assert seen.code == 0, seen.whole
    assert seen.row("broker", "connections")["seen"] == url
    assert seen.row("persistence")["state"] == seen.row("writes of broker")["state"] == "ok"
    assert seen.row("other users")["seen"].startswith("no keys of others")
    held = seen.row("unacknowledged", "jobs")
    assert (held["state"], "visibility" in held["seen"]) == ("ok", False)
    assert "dead letters" not in {what for _, what in seen.rows}
    with server.client() as client:
        client.delete("unacked", "unacked_index")
        client.rpush("celery", "no message")
    consume = (
        "import tasks_demo.transport, kombu, queue\n"
        f"with kombu.Connection({url!r}) as connection, connection.SimpleQueue('celery') as messages:\n"
        "    try: messages.get(timeout=1)\n"
        "    except queue.Empty: pass"
    )
    subprocess.run([sys.executable, "-c", consume], check=True, cwd=PROJECT)
    dead = doctor(home, REDIS_URL=server.url, CELERY_BROKER_URL=url).row("dead letters")
    assert (dead["state"], dead["seen"].split(" (")[0]) == ("warn", "1 message that no worker runs any more")
    assert "'celery'" in dead["seen"]
    assert "manage.py quarantine" in dead["fix"]
    with server.client() as client:
        client.config_set("maxmemory", "50mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
    assert doctor(home, REDIS_URL=server.url, CELERY_BROKER_URL=url).failed() == {"eviction"}


def test_doctor_writes_nothing_that_stays(home: Home, server: RedisServer) -> None:
    doctor(home, REDIS_URL=server.url)
    with server.client() as client:
        left = [key for key in client.scan_iter() if b"doctor" in key]
        assert all(client.pttl(key) != -1 and client.pttl(key) <= 1000 for key in left), "-1: it never ends"
        until(lambda: not [key for key in client.scan_iter() if b"doctor" in key], "the end of the probes")


def test_doctor_table_is_for_people(home: Home, server: RedisServer) -> None:
    done = home.manage("doctor", env={"REDIS_URL": server.url})
    assert (done.code, done.err) == (0, "")
    for text in (
        "settings",
        "connections",
        "Redis (broker, results, leases)",
        "noeviction",
        " warn ",
        "0 fail. Jobs can run",
    ):
        assert text in done.out, done.out
    assert "→ Only the demo's tasks need it" in done.out


def test_doctor_counts_the_warnings_of_the_checks(home: Home, server: RedisServer) -> None:
    seen = doctor(home, REDIS_URL=server.url, TASKS_DEMO_LEASE_SECONDS="6", TASKS_DEMO_RETENTION_SECONDS="60")
    assert seen.code == 0
    row = seen.row("system checks", "settings")
    assert (row["state"], row["fix"]) == ("warn", "Run `python manage.py check --tag celery`.")
    assert "tasks_demo.W010, tasks_demo.W011" in row["seen"]


def test_doctor_part_that_hangs_or_crashes_hides_no_other() -> None:
    def crash() -> list[Finding]:
        raise ZeroDivisionError("a driver's own")

    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def hang() -> list[Finding]:
            with listening.accept()[0]:
                return []

        works: dict[tuple[str, str], Any] = {
            ("a", "hangs"): hang,
            ("b", "crashes"): crash,
            ("c", "answers"): lambda: [Finding("c", "answers", State.OK, "well")],
        }
        rows = side_by_side(works, seconds=1.0)
        socket.create_connection(listening.getsockname()).close()  # lets the thread end
    assert [(row.part, row.state, row.ready) for row in rows] == [
        ("a", State.FAIL, False), ("b", State.FAIL, False), ("c", State.OK, True),
    ]  # fmt: skip
    assert rows[0].seen == "no answer within 1 s"
    assert rows[1].seen == "ZeroDivisionError: a driver's own"


def test_worker_logs_the_warnings_that_celery_discards(home: Home, redis_url: str, short: Path) -> None:
    log = short / "worker.log"
    environment = {"REDIS_URL": redis_url, "TASKS_DEMO_LEASE_SECONDS": "6"}
    with Worker(home, log, environment):
        text = log.read_text(errors="replace")
    assert text.count("tasks_demo.W010: Task tasks_demo.charge_dedup_lock: ") == 1, text
    assert "Write TASKS_DEMO_LEASE_SECONDS of at least 15" in text
