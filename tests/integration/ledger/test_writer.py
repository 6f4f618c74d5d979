"""The recorder's writing thread: when events are committed, and who waits for that."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest
from celery import signals
from django.db import connection, transaction

from tasks_demo.core.lifecycle import Point, about, reached
from tasks_demo.ledger.events import EventData
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.ledger.recorder import FOLLOWS, MUST_PRECEDE, recorder
from tasks_demo.ledger.store import store
from tasks_demo.ledger.writer import BATCH_SECONDS
from tests.integration.ledger.ledger_table import consistent, mend_table, subject, without_table
from tests.support import Home, until

__all__ = ["without_table"]

pytestmark = pytest.mark.usefixtures("ledger")


@pytest.mark.usefixtures("without_table")
@pytest.mark.parametrize("point", [Point.RETURNED, Point.FAILED, Point.RECEIVED])
def test_writer_writes_when_the_database_is_back_though_nothing_else_happens(
    point: Point, caplog: pytest.LogCaptureFixture
) -> None:
    reached(point, subject("t"))
    until(lambda: "kept for the next attempt" in caplog.text, "an attempt that failed")
    mend_table()
    until(lambda: Event.objects.filter(kind=point).exists(), "the thread's next attempt")
    consistent()


def test_writer_goes_on_after_an_unexpected_error(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fall(rows: list[EventData], *_: object) -> None:
        if rows:
            seen.append(threading.current_thread().name)
            raise RuntimeError("unexpected")

    with monkeypatch.context() as patch:
        patch.setattr(store, "append", fall)
        reached(Point.RETURNED, subject("t"))
        until(lambda: seen, "the attempt")
    assert set(seen) == {"ledger"}
    until(lambda: Event.objects.filter(kind="returned").exists(), "the thread's next attempt")


def test_writer_writes_a_publication_after_its_transaction(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM tasks_demo_event WHERE task_id = 'nobody'")
        reached(Point.PUBLISHED, subject("t"))
        transaction.set_rollback(True)
    until(lambda: Event.objects.filter(kind="published").exists(), "the thread's commit")
    assert not caplog.records, "it does not wait for a file that this process itself holds"


def test_writer_soon_writes_what_the_main_process_sees() -> None:
    someone = subject()
    reached(Point.RECEIVED, someone)
    reached(Point.ACKED, someone)
    until(lambda: Event.objects.filter(task_id=someone.task_id).count() == 2, "the thread's commit")


@pytest.mark.parametrize("point", sorted(set(Point) - MUST_PRECEDE - FOLLOWS))
@pytest.mark.parametrize("waits", [False, True], ids=["does not wait", "waits, for the lab"])
def test_writer_never_commits_on_the_event_loop_of_main(
    point: Point, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    append = store.append

    def watched(rows: list[EventData], *_: object) -> None:
        append(rows)
        if rows:  # an earlier test's thread may still be running
            threads.append(threading.current_thread().name)

    monkeypatch.setattr(store, "append", watched)
    monkeypatch.setattr(recorder, "is_main", True)
    monkeypatch.setattr(recorder, "main_waits", waits)
    reached(point, subject("t"))
    until(lambda: Event.objects.filter(kind=point).exists() and threads, "the commit")
    # A server may never answer. Then the thread waits for it, and no caller waits for the thread.
    asks_itself = waits and point is not Point.RETURNED and not store.can_hang()
    by = threading.current_thread().name if asks_itself else "ledger"
    assert threads == [by]


def test_writer_knows_from_celery_that_it_is_in_main(home: Home) -> None:
    done = home.python(
        "import os\n"
        "from project.celery import app\n"
        "from tasks_demo.ledger.recorder import recorder\n"
        "assert not recorder.is_main\n"
        "app.WorkController(pool='solo')\n"
        "assert recorder.is_main\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    os._exit(recorder.is_main)\n"
        "assert os.waitpid(pid, 0)[1] == 0, 'a pool process takes itself for main'\n"
    )
    assert done.code == 0, done.err


def test_writer_soon_writes_a_return_and_write_through_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = subject(), subject()
    with about(first):
        reached(Point.STARTED)
        assert Tally.objects.get(task_id=first.task_id).executions == 1, "a start is committed before the body"
        reached(Point.RETURNED)
    until(lambda: Tally.objects.get(task_id=first.task_id).ended == 1, "the thread's commit")
    monkeypatch.setattr(recorder, "write_through", True)
    with about(second):
        reached(Point.STARTED)
        reached(Point.RETURNED)
    assert Tally.objects.get(task_id=second.task_id).ended == 1
    consistent()


def test_writer_thread_leaves_what_is_young_to_the_next_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy pool process commits each return with its next start, so a commit by the thread would be one too many."""
    if store.can_hang():
        pytest.skip("on a database server the thread commits the starts, too")
    noted: dict[str, float] = {}
    ages: list[float] = []
    note, append = recorder.note, store.append

    def noting(*args: Any, **fields: Any) -> EventData:
        before = time.monotonic()
        event = note(*args, **fields)
        noted[event.source] = before
        return event

    def watched(events: list[EventData], *patience: Any) -> None:
        if threading.current_thread().name == "ledger":
            ages.append(time.monotonic() - min(noted[event.source] for event in events))
        append(events, *patience)

    monkeypatch.setattr(recorder, "note", noting)
    monkeypatch.setattr(store, "append", watched)
    end = time.monotonic() + 10 * BATCH_SECONDS
    while time.monotonic() < end:
        with about(subject()):
            reached(Point.STARTED)
            reached(Point.RETURNED)
    until(lambda: not recorder._unwritten(), "the last return's commit")
    assert max(ages) >= BATCH_SECONDS, "the last return is committed by the thread"
    # Not none: while the thread waits for a slow commit of a start, what it was to commit becomes part of that.
    assert sum(age < BATCH_SECONDS for age in ages) <= 3


def test_writer_writes_the_last_return_of_a_pool_process_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "commit_soon", lambda: None)
    monkeypatch.setattr(recorder, "patient", True)  # no thread commits here, so nothing waits for one
    someone = subject()
    with about(someone):
        reached(Point.STARTED)
        reached(Point.RETURNED)
    signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)
    assert Tally.objects.get(task_id=someone.task_id).ended == 1


def test_writer_lets_nobody_wait_for_a_commit_that_waits_for_a_lock() -> None:
    """The thread's commit may be waiting for the transaction that the body is in."""
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL has more than one writer")
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM tasks_demo_event WHERE task_id = 'nobody'")
        recorder.note("returned", at=time.time(), task_id="before", operation="before")
        thread = threading.Thread(target=recorder.try_flush)
        thread.start()
        until(lambda: not recorder._waiting, "the commit under way")
        with about(subject("inside")):
            reached(Point.STARTED)
            reached(Point.RETURNED)
        # A caller that waited for that commit would return after 20 s, when it gives up.
        assert thread.is_alive()
        assert [kept.task_id for kept in recorder._waiting] == ["inside", "inside"]
    thread.join(30)
    recorder.flush()
    assert sorted(Tally.objects.values_list("task_id", "ended")) == [("before", 1), ("inside", 1)]
    consistent()
