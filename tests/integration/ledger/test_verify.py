"""The check of the tallies against the events."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tasks_demo.ledger.store import store
from tasks_demo.ledger.verify import differences
from tests.integration.ledger.ledger_table import consistent, row

pytestmark = pytest.mark.usefixtures("ledger")


@pytest.mark.parametrize(
    ("forgery", "said"),
    [
        ("UPDATE tasks_demo_tally SET executions = executions + 1", "executions is 2, the events say 1"),
        ("UPDATE tasks_demo_tally SET effects = 5", "effects is 5, the events say 0"),
        ("DELETE FROM tasks_demo_event", "a tally without a single event"),
        ("DELETE FROM tasks_demo_event WHERE kind = 'started'", "executions is 1, the events say 0"),
        ("DELETE FROM tasks_demo_tally", "events without a tally"),
        ("UPDATE tasks_demo_tally SET state = state + 3", "state is"),
        ("UPDATE tasks_demo_tally SET task = 'another'", "task is 'another', the events say 'shop.x'"),
    ],
)
def test_verify_finds_a_forgery(forgery: str, said: str) -> None:
    store.append([row("received", task="shop.x", detail={"task": "shop.x"}), row("started")])
    consistent()
    with connection.cursor() as cursor:
        cursor.execute(forgery)
    assert any(said in sentence for sentence in differences())


def test_verify_reads_many_task_ids_at_once_and_finds_the_one_that_is_wrong() -> None:
    store.append([row(kind, f"task {number}") for number in range(1100) for kind in ("received", "started")])
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tasks_demo_tally SET executions = 3 WHERE task_id = 'task 777'")
    with CaptureQueriesContext(connection) as queries:
        assert list(differences()) == ["task 777: executions is 3, the events say 1."]
    assert len(queries) < 20


def test_verify_reads_everything_as_of_one_moment_while_others_write() -> None:
    store.append([row("received", task_id) for task_id in "abc"])
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tasks_demo_tally SET executions = 7 WHERE task_id = 'a'")
    found = differences()
    seen = [next(found)]
    store.append([row("started", "b"), row("received", "new")])  # and no writer waits for the reader
    seen += found
    assert seen == ["a: executions is 7, the events say 0."]
