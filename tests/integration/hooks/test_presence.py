"""The report of a worker about itself, and a fork of the worker's process in the middle of it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection, router

from tasks_demo.hooks import presence
from tasks_demo.hooks.presence import Presence
from tasks_demo.ledger.store import store
from tasks_demo.ledger.worker_process import WorkerProcess
from tests.integration.project_routers import FailsForAWhile
from tests.support import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger")]

LOCKED = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1], isolation_level=None)
other.execute("BEGIN IMMEDIATE")
print(flush=True)
sys.stdin.read()
"""


def consumer() -> Any:
    """What a report reads of a worker that holds nothing."""
    return SimpleNamespace(
        hostname="w@t", timer=SimpleNamespace(schedule=SimpleNamespace(queue=[])),
        controller=SimpleNamespace(pool_cls="prefork", concurrency=2),
        task_consumer=SimpleNamespace(queues=[SimpleNamespace(name="celery")]),
    )  # fmt: skip


def is_open(file: str) -> bool:
    """Return whether this process has the file open."""
    for entry in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own descriptor
            if os.readlink(f"/proc/self/fd/{entry}").startswith(file):
                return True
    return False


def test_presence_goes_on_when_a_router_of_the_project_raises(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.05)
    failing = FailsForAWhile()
    monkeypatch.setattr(router, "routers", [failing, *router.routers])
    reports = Presence(consumer())
    reports.begin()
    until(lambda: "no shard for this model" in caplog.text, "the first report fails")
    failing.failing = False
    until(WorkerProcess.objects.exists, "a later report")
    reports.end()
    assert WorkerProcess.objects.get().stopped_at is not None


def test_presence_leaves_no_sqlite_connection_to_a_child_forked_during_a_report(caplog: Any) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("only SQLite keeps a list of its process's locks")
    file = str(Path(str(connection.settings_dict["NAME"])).resolve())
    store.close()
    connection.close()
    assert not is_open(file)
    command = [sys.executable, "-c", LOCKED, file]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n", "the file is locked"
        reports = Presence(consumer())
        reports.begin()
        until(lambda: is_open(file), "the report waits for the lock")
        pid = os.fork()
        if not pid:
            os._exit(is_open(file))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the child has the file open"
        other.communicate()
    reports.end()
    assert "did not store this worker's report" in caplog.text
    assert WorkerProcess.objects.get().stopped_at is not None
