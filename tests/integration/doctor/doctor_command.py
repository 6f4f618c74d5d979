"""What the tests of the doctor share: the command, what it says, and a safe Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks_demo.doctor.findings import Finding
from tasks_demo.doctor.redis_server import RedisUser, examine
from tests.integration.servers.redis import EMBEDDED, RedisServer
from tests.support import Finished, Home

#: The embedded server's configuration, which is also the recommended one.
SOUND = ("--appendfsync", "everysec", "--maxmemory-policy", "noeviction")


@dataclass(frozen=True)
class Seen:
    """The doctor's output, as JSON."""

    code: int
    rows: dict[tuple[str, str], dict[str, str]]
    whole: str

    def row(self, what: str, part: str = "Redis (broker, results, leases)") -> dict[str, str]:
        return self.rows[part, what]

    def failed(self) -> set[str]:
        return {what for (_, what), row in self.rows.items() if row["state"] == "fail"}


def doctor(home: Home, **env: str) -> Seen:
    return read(home.manage("doctor", "--json", env=env))


def read(done: Finished) -> Seen:
    """What ``doctor --json`` has printed, which must be in its documented form."""
    assert "Traceback" not in done.err, done.err
    document = json.loads(done.out)  # nothing else is on stdout
    assert document["schema"] == "doctor/1"
    assert document["exit"] == done.code
    rows = {(row["part"], row["what"]): row for row in document["rows"]}
    assert len(rows) == len(document["rows"])
    for row in rows.values():
        assert set(row) == {"part", "what", "state", "seen", "fix"}
        assert row["state"] in {"ok", "warn", "fail"}
        assert row["state"] != "fail" or row["fix"], row
    return Seen(done.code, rows, done.out + done.err)


@pytest.fixture
def server(short: Path) -> Iterator[RedisServer]:
    with RedisServer(short, EMBEDDED, *SOUND) as running:
        yield running


def rows_of(server: RedisServer, *, role: str = "broker", needed: bool = True) -> dict[str, Finding]:
    """The rows of one server for one user, without a subprocess."""
    user = RedisUser(role, server.client(), "tasks_demo:" if role == "leases" else "", needed=needed)
    with closing(user.client):
        return {row.what: row for row in examine([user], frozenset({"celery"}))}


def not_ready(seen: Seen) -> None:
    assert seen.code == 4, seen.whole
