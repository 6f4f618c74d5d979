"""SIGSTOP at a moment at which the process holds no lock of SQLite."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tasks_demo.lab.processes import stopping
from tests.support import until

#: Writes nine tenths of the time.
WRITER = """
import sqlite3, sys, time
base = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
base.execute("PRAGMA journal_mode=WAL")
base.execute("CREATE TABLE one (id INTEGER)")
print("ready", flush=True)
while True:
    base.execute("BEGIN IMMEDIATE")
    base.execute("INSERT INTO one VALUES (1)")
    time.sleep(float(sys.argv[2]))
    base.execute("COMMIT")
    time.sleep(0.01)
"""


@contextmanager
def writing(file: Path, seconds: float) -> Iterator[tuple[int, int]]:
    """A process whose transactions last so long. Yields its pid and its pidfd."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(file), str(seconds)], stdout=subprocess.PIPE) as process:
        descriptor = os.pidfd_open(process.pid)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process.pid, descriptor
        finally:
            process.kill()
            os.close(descriptor)


def begin(file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None, timeout=0)) as base:
        base.execute("BEGIN IMMEDIATE")


def test_stopped_process_leaves_the_database_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "WAIT_SECONDS", 60.0)
    file = tmp_path / "shop.sqlite3"
    with writing(file, 0.09) as (pid, descriptor):
        for _ in range(10):
            assert stopping.stop(pid, descriptor)
            begin(file)
            signal.pidfd_send_signal(descriptor, signal.SIGCONT)


def test_process_that_never_leaves_its_transaction_is_stopped_nevertheless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "WAIT_SECONDS", 0.1)
    file = tmp_path / "shop.sqlite3"
    with writing(file, 3600) as (pid, descriptor):
        until(lambda: stopping.locks_file(pid), "its transaction")
        assert stopping.stop(pid, descriptor)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            begin(file)


def test_process_that_is_gone_is_not_stopped(tmp_path: Path) -> None:
    with writing(tmp_path / "shop.sqlite3", 0.0) as (pid, descriptor):
        os.kill(pid, signal.SIGKILL)
        assert not stopping.stop(pid, descriptor)
