"""A statement of ours on SQLite waits for the write lock as long as the project's connection would."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator

import pytest
from django.db import OperationalError, connection

from tasks_demo.core.databases import execute
from tasks_demo.ledger.models import Event

pytestmark = pytest.mark.django_db(transaction=True)
#: Changes nothing, and needs the write lock.
STATEMENT = f"DELETE FROM {Event._meta.db_table} WHERE task_id = %s"  # noqa: S608


@pytest.fixture
def holder() -> Iterator[sqlite3.Connection]:
    """Another connection to the file, which holds the write lock."""
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL has more than one writer")
    connection.ensure_connection()
    held = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None, uri=True, check_same_thread=False)
    held.execute("BEGIN IMMEDIATE")
    yield held
    held.close()


def busy_timeout() -> int:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        return int(cursor.fetchone()[0])


def test_execute_waits_for_the_lock(holder: sqlite3.Connection) -> None:
    before = busy_timeout()
    ends = threading.Event()

    def release() -> None:
        ends.wait(10)
        holder.execute("ROLLBACK")

    thread = threading.Thread(target=release)
    thread.start()
    began = time.monotonic()
    threading.Timer(0.05, ends.set).start()
    assert execute("default", STATEMENT, ["nobody"])[0] == 0
    thread.join(10)
    assert time.monotonic() - began >= 0.05, "it waited until the lock was free"
    assert busy_timeout() == before > 0


def test_execute_raises_after_the_connections_own_timeout(holder: sqlite3.Connection) -> None:
    before = busy_timeout()
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 60")
    try:
        began = time.monotonic()
        with pytest.raises(OperationalError, match="locked"):
            execute("default", STATEMENT, ["nobody"])
        assert time.monotonic() - began >= 0.06
        assert busy_timeout() == 60
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA busy_timeout = {before}")
