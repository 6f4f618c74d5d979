"""Waiting for SQLite's write lock, with two connections to one file."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks_demo.core.sqlite_lock import LONGEST_PAUSE, retried


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    """A connection that holds the write lock, and one that does not wait."""
    holder, waiter = (
        sqlite3.connect(tmp_path / "file", isolation_level=None, timeout=0, check_same_thread=False) for _ in range(2)
    )
    holder.execute("CREATE TABLE numbers (number)")
    holder.execute("BEGIN IMMEDIATE")
    yield holder, waiter
    holder.close()
    waiter.close()


def insert(connection: sqlite3.Connection) -> int:
    return connection.execute("INSERT INTO numbers VALUES (1)").rowcount


def test_retried_runs_the_statement_once_the_lock_is_free(two: tuple[sqlite3.Connection, sqlite3.Connection]) -> None:
    holder, waiter = two
    refused = threading.Event()

    def statement() -> int:
        try:
            return insert(waiter)
        except sqlite3.OperationalError:
            refused.set()
            raise

    def release() -> None:
        refused.wait(10)
        holder.execute("COMMIT")

    thread = threading.Thread(target=release)
    thread.start()
    assert retried(statement, time.monotonic() + 10) == 1
    thread.join(10)
    assert refused.is_set(), "the lock was held when the statement ran first"
    assert waiter.execute("SELECT COUNT(*) FROM numbers").fetchone() == (1,)


def test_retried_raises_after_the_deadline(two: tuple[sqlite3.Connection, sqlite3.Connection]) -> None:
    _, waiter = two
    began = time.monotonic()
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        retried(lambda: insert(waiter), began + 20 * LONGEST_PAUSE)
    assert time.monotonic() >= began + 20 * LONGEST_PAUSE


@pytest.mark.parametrize("given_up", [True, False], ids=["given up", "another error"])
def test_retried_does_not_wait(two: tuple[sqlite3.Connection, sqlite3.Connection], given_up: bool) -> None:
    _, waiter = two
    statement = "INSERT INTO numbers VALUES (1)" if given_up else "INSERT INTO nothing VALUES (1)"
    tries: list[str] = []

    def once() -> None:
        tries.append(statement)
        waiter.execute(statement)

    with pytest.raises(sqlite3.OperationalError):
        retried(once, time.monotonic() + 10, given_up=lambda: given_up)
    assert len(tries) == 1
