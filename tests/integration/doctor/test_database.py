"""What the doctor says about the database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.doctor.doctor_command import doctor, not_ready
from tests.integration.servers.redis import RedisServer
from tests.support import Home, together

pytestmark = pytest.mark.timeout(120)


def test_database_without_migrations_is_code_4(home: Home, short: Path, server: RedisServer) -> None:
    seen = doctor(home, REDIS_URL=server.url, DATABASE_URL=f"sqlite:///{short}/empty.sqlite3")
    not_ready(seen)
    row = seen.row("migrations", "database default")
    assert row["state"] == "fail"
    assert row["fix"] == "Run `python manage.py migrate --database default`."


def test_database_that_is_locked_is_code_4(short: Path, server: RedisServer) -> None:
    home = Home(short)
    home.migrate()
    with closing(sqlite3.connect(short / "db.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        seen = doctor(home, REDIS_URL=server.url)
        other.execute("ROLLBACK")
    not_ready(seen)
    row = seen.row("writes", "database default")
    assert "database is locked" in row["seen"]
    assert "write transaction open" in row["fix"]
    assert seen.row("journal", "database default")["seen"].startswith("WAL")


def test_database_that_is_not_there_is_code_4(home: Home, server: RedisServer) -> None:
    nowhere = "postgres://somebody:hidden@127.0.0.1:1/none"
    folder = "sqlite:////no/such/folder/db.sqlite3"
    for seen in together(
        [lambda url=url: doctor(home, REDIS_URL=server.url, DATABASE_URL=url) for url in (nowhere, folder)],  # type: ignore[misc]
        2,
    ):
        not_ready(seen)
        assert seen.row("answers", "database default")["state"] == "fail"
        assert "hidden" not in seen.whole


def test_database_postgresql_is_described(home: Home, server: RedisServer) -> None:
    if not home.database_url:
        pytest.skip("DATABASE_URL names no PostgreSQL")
    seen = doctor(home, REDIS_URL=server.url)
    assert seen.code == 0, seen.whole
    assert seen.row("answers", "database default")["seen"].startswith("PostgreSQL ")
    assert seen.row("writes", "database default")["state"] == "ok"
    assert seen.row("clock", "database default")["state"] == "ok"
