"""The recorder: what it does with a point when the database fails or the task has a transaction of its own."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from django.db import connection, connections, transaction

from tasks_demo.core import lifecycle
from tasks_demo.core.exceptions import LedgerUnavailable, StartNotRecorded
from tasks_demo.core.lifecycle import Point, Subject, about, reached
from tasks_demo.ledger.events import GAP
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.ledger.recorder import MUST_PRECEDE, recorder
from tasks_demo.ledger.store import store
from tests.integration.ledger.ledger_table import consistent, mend_table, row, subject, without_table
from tests.support import PROJECT, until

__all__ = ["without_table"]

pytestmark = pytest.mark.usefixtures("ledger")


@pytest.fixture
def impatient(ledger: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Wait only briefly for a locked database."""
    options = dict(connections.settings["default"]["OPTIONS"])
    if connection.vendor == "sqlite":
        options["timeout"] = 0.2
    else:
        options["options"] = "-c lock_timeout=200ms"
    monkeypatch.setitem(connections.settings["default"], "OPTIONS", options)
    store.close()
    yield
    store.close()


def test_recorder_may_be_called_by_a_signal_handler_while_its_thread_records() -> None:
    def interrupted() -> None:
        with recorder._lock:
            recorder.note("returned", at=time.time(), task_id="t", operation="t")

    thread = threading.Thread(target=interrupted, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    recorder.flush()
    assert Tally.objects.get().ended == 1


def test_recorder_records_what_a_coroutine_publishes_also_if_it_opens_the_connection() -> None:
    async def view(task_id: str) -> None:
        reached(Point.PUBLISHED, subject(task_id))

    for task_id in ("opens", "reuses"):
        asyncio.run(view(task_id))
    recorder.flush()
    assert list(Event.objects.order_by("id").values_list("task_id", "kind")) == [
        ("opens", Point.PUBLISHED),
        ("reuses", Point.PUBLISHED),
    ]


def test_store_can_be_closed_by_a_coroutine() -> None:
    async def view() -> None:
        store.close()

    reached(Point.PUBLISHED, subject("t"))
    recorder.flush()
    inner = store._connection
    assert inner is not None
    asyncio.run(view())
    assert inner.connection is None


@pytest.mark.usefixtures("without_table")
def test_recorder_without_its_table_says_so_and_forgets_a_start_that_needs_it() -> None:
    waiting = len(recorder._waiting)
    needing = replace(subject("t"), needs_ledger=True)
    with about(needing), pytest.raises(StartNotRecorded, match=r"did not store 1 event.*migrate") as caught:
        reached(Point.STARTED)
    assert "tasks_demo_event" in str(caught.value)
    assert len(recorder._waiting) == waiting, "a start that did not happen must not be written down later"
    mend_table()
    store.append([row("received", "t")])
    assert Tally.objects.get(task_id="t").executions == 0


@pytest.mark.usefixtures("without_table")
def test_recorder_keeps_the_start_of_a_task_without_a_pattern() -> None:
    with about(Subject("t", "t", "", "w@t", "", "shop.x")):
        reached(Point.STARTED)
        mend_table()
        reached(Point.RETURNED)
    recorder.flush()
    tally = Tally.objects.get()
    assert (tally.executions, tally.outcome) == (1, "succeeded")


@pytest.mark.usefixtures("without_table")
def test_recorder_keeps_what_follows_the_body_until_the_database_is_back() -> None:
    someone = subject()
    with about(someone):
        reached(Point.EFFECT_DONE, debit=1)
        reached(Point.RETURNED)  # raises nothing: an error here would undo nothing
        assert not recorder.try_flush()
    until(lambda: len(recorder._waiting) == 2, "what the thread took and could not commit either")
    mend_table()
    reached(Point.FAILED, someone)  # does not wait: the ledger has been unavailable
    kinds = Event.objects.order_by("id").values_list("kind", flat=True)
    until(lambda: list(kinds.all()) == ["effect_done", "returned", "failed", GAP], "the thread's next attempt")
    consistent()


@pytest.mark.usefixtures("impatient")
def test_recorder_on_a_locked_database_says_so_and_writes_nothing() -> None:
    def append() -> None:
        with pytest.raises(LedgerUnavailable, match="did not store 1 event"):
            store.append([row("started", "t", "x:1")])

    if connection.vendor == "sqlite":
        other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        append()
        other.execute("ROLLBACK")
        other.close()
    else:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE tasks_demo_event IN ACCESS EXCLUSIVE MODE")
            append()
    store.append([row("started", "t", "x:1")])
    assert Tally.objects.get(task_id="t").executions == 1


def test_recorder_on_a_read_only_database_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    options = dict(connections.settings["default"]["OPTIONS"])
    if connection.vendor == "sqlite":
        options["init_command"] = "PRAGMA query_only = ON"
    else:
        options["options"] = "-c default_transaction_read_only=on"
    store.close()
    with monkeypatch.context() as patch:
        patch.setitem(connections.settings["default"], "OPTIONS", options)
        with pytest.raises(LedgerUnavailable, match="writable"):
            store.append([row("started")])
    store.append([row("started")])
    assert Event.objects.count() == 1


def test_recorder_keeps_evidence_when_the_task_rolls_back() -> None:
    someone = subject()

    class Rollback(Exception):
        pass

    with about(someone):
        reached(Point.STARTED)
        with pytest.raises(Rollback), transaction.atomic():  # noqa: PT012
            reached(Point.EFFECT_BEGUN)
            reached(Point.EFFECT_DONE)
            raise Rollback
        reached(Point.RETURNED)
    recorder.flush()
    kinds = Event.objects.filter(task_id=someone.task_id).values_list("kind", flat=True)
    assert list(kinds) == ["started", "effect_begun", "effect_done", "returned"]


@pytest.mark.parametrize("through", [False, True], ids=["batched", "write through"])
def test_recorder_does_not_wait_for_the_tasks_own_transaction(through: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "write_through", through)
    someone = subject()
    began = time.monotonic()
    with about(someone), transaction.atomic():
        # This transaction holds SQLite's only write lock.
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM tasks_demo_event WHERE task_id = 'nobody'")
        reached(Point.STARTED)
        reached(Point.EFFECT_DONE)
        reached(Point.RETURNED)
    recorder.flush()
    assert time.monotonic() - began < 15.0, "twenty for one that waits for itself"
    assert Tally.objects.get(task_id=someone.task_id).executions == 1
    consistent()


def test_recorder_is_connected_once() -> None:
    assert lifecycle.observers().count(recorder) == 1
    assert Path(PROJECT, "tasks_demo", "ledger", "sql", "append_event.sql").exists()


@pytest.mark.usefixtures("without_table")
@pytest.mark.parametrize("point", sorted(set(Point) - MUST_PRECEDE))
def test_recorder_raises_at_no_point_after_the_start(point: Point, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "write_through", True)
    reached(point, subject("t"))
    mend_table()
    until(lambda: Event.objects.filter(kind=point).exists(), "what was kept")
    consistent()


@pytest.mark.parametrize("error", [ValueError, KeyError, AttributeError, RuntimeError])
def test_recorder_takes_whatever_a_driver_raises_for_the_ledgers_failure(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fall(*_: object) -> None:
        raise error("unexpected")

    with monkeypatch.context() as patch:
        patch.setattr("tasks_demo.core.clock.for_driver", fall)
        with pytest.raises(LedgerUnavailable, match="unexpected"):
            store.append([row("started", "t")])
    store.append([row("started", "t")])
    assert Tally.objects.get().executions == 1
