"""The store on a real database: tallies equal the events when writers are killed, fork or fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from django.db import connection

from tasks_demo.core.exceptions import LedgerUnavailable
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.ledger.recorder import recorder
from tasks_demo.ledger.store import store
from tests.integration.ledger.ledger_table import consistent, row
from tests.support import PROJECT, database_url_of_tests, together

pytestmark = pytest.mark.usefixtures("ledger")


#: A real process that appends batches: each has its own task and one that all writers share.
WRITER = """
import sys, time, uuid
import django; django.setup()
from tasks_demo.ledger.events import EventData
from tasks_demo.ledger.store import Store, store
name, batches, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for batch in range(batches):
    task = f"{name}-{batch}"
    rows = [
        EventData(at=time.time(), kind=kind, source=f"{name}:{batch}:{number}", task_id=who, operation=who,
            pattern="acks_late", books="bank")
        for number, (kind, who) in enumerate([("received", task), ("started", "shared"), ("returned", task)] * size)
    ]
    store.append(rows)
    print(batch, flush=True)
"""


def write_elsewhere(name: str, batches: int, size: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, name, str(batches), str(size)],
        cwd=PROJECT,
        env={
            **os.environ,
            "DATABASE_URL": database_url_of_tests(),
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "TASKS_DEMO_LEDGER": "0",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_store_keeps_tallies_equal_to_events_of_several_processes() -> None:
    writers = [write_elsewhere(f"w{number}", 15, 4) for number in range(3)]
    for writer, (_, error) in zip(writers, together([w.communicate for w in writers]), strict=True):
        assert writer.returncode == 0, error
    consistent()
    assert Event.objects.count() == 3 * 15 * 12
    assert Tally.objects.get(task_id="shared").executions == 3 * 15 * 4
    assert Tally.objects.get(task_id="w1-7").deliveries == 4


def test_store_keeps_whole_batches_of_a_killed_writer() -> None:
    writer = write_elsewhere("victim", 1_000_000, 30)
    assert writer.stdout is not None
    confirmed = [int(writer.stdout.readline()) for _ in range(5)][-1]
    writer.send_signal(signal.SIGKILL)
    rest, _ = writer.communicate(timeout=30)
    assert writer.returncode == -signal.SIGKILL
    confirmed = int(rest.split()[-1]) if rest.split() and rest.endswith("\n") else confirmed
    counts: dict[str, int] = {}
    for source in Event.objects.values_list("source", flat=True):
        batch = source.split(":")[1]
        counts[batch] = counts.get(batch, 0) + 1
    assert set(map(str, range(confirmed + 1))) <= set(counts), "a committed batch is missing"
    assert set(counts.values()) == {90}, "a batch is there by half"
    consistent()


def test_store_of_a_fork_leaves_the_parents_connection_alone() -> None:
    store.append([row("received", "parent", "p:1")])
    recorder.note("acked", at=time.time(), task_id="parent", operation="parent")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert not recorder._waiting  # what the parent recorded is for the parent to commit
            store.append([row("started", "child", "c:1")])
            store.close()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    store.append([row("returned", "parent", "p:2")])
    recorder.flush()
    assert sorted(Event.objects.values_list("kind", flat=True)) == ["acked", "received", "returned", "started"]
    consistent()


@pytest.mark.parametrize("end", ["close", "fork again"])
def test_store_keeps_what_a_fork_commits_when_its_parent_closes(end: str) -> None:
    """SQLite's locks belong to the process: a fork mistook its parent's for its own, and its log was deleted."""
    connection.close()  # SQLite deletes its log with the last connection only
    store.append([row("started", "parent")])
    go, gone = os.pipe()
    ready, say = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            store.append([row("started", "child-1")])
            os.write(say, b"x")
            os.read(go, 1)
            store.append([row("started", "child-2")])
        finally:
            os._exit(0)
    os.read(ready, 1)
    if end == "close":
        store.close()
    else:
        other = os.fork()
        if other == 0:
            os._exit(0)
        os.waitpid(other, 0)
    os.write(gone, b"x")
    assert os.waitpid(child, 0)[1] == 0
    for end_of_pipe in (go, gone, ready, say):
        os.close(end_of_pipe)
    assert sorted(Event.objects.values_list("task_id", flat=True)) == ["child-1", "child-2", "parent"]
    consistent()


def test_store_counts_rows_once_that_are_appended_again_after_a_failure_in_doubt() -> None:
    rows = [row("received", "t", "x:1"), row("started", "t", "x:2")]
    store.append(rows)
    # The commit arrived, but its confirmation did not.
    with pytest.raises(LedgerUnavailable):
        store.append(rows)
    store.append(rows)
    tally = Tally.objects.get(task_id="t")
    assert (tally.deliveries, tally.executions, Event.objects.count()) == (1, 1, 2)
    consistent()


def test_store_keeps_what_was_added_to_a_batch_in_doubt() -> None:
    rows = [row("received", "t", "x:1"), row("started", "t", "x:2")]
    store.append(rows)
    with pytest.raises(LedgerUnavailable):
        store.append(rows)
    store.append([*rows, row("returned", "t", "x:3")])
    tally = Tally.objects.get(task_id="t")
    assert (tally.deliveries, tally.executions, tally.ended, Event.objects.count()) == (1, 1, 1, 3)
    consistent()


def test_store_refuses_a_source_twice_when_nothing_was_in_doubt() -> None:
    store.append([row("received", "t", "x:1")])
    with pytest.raises(LedgerUnavailable):
        store.append([row("started", "u", "y:1"), row("received", "t", "x:1")])
    assert Event.objects.count() == 1
    assert not Tally.objects.filter(task_id="u").exists()
