"""The ledger on a real database: the tallies equal the fold of the events when writers die, fork or fail."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from celery import signals
from django.db import connection, connections, router, transaction

from tasks_demo.core import lifecycle
from tasks_demo.core.exceptions import LedgerUnavailable, StartNotRecorded
from tasks_demo.core.lifecycle import Point, Subject, about, reached
from tasks_demo.demo.bank.client import BankClient
from tasks_demo.demo.ledger_books import Bank, Bookings
from tasks_demo.demo.shop.models import Booking
from tasks_demo.ledger import reading
from tasks_demo.ledger import store as store_module
from tasks_demo.ledger.batch import Batch
from tasks_demo.ledger.books import Effect
from tasks_demo.ledger.events import EFFECT, GAP, SETTLED, EventData
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.ledger.queries import find, timeline
from tasks_demo.ledger.reading import copy
from tasks_demo.ledger.recorder import FOLLOWS, MUST_PRECEDE, recorder
from tasks_demo.ledger.settling import settle
from tasks_demo.ledger.store import Store, store
from tasks_demo.ledger.verify import differences
from tests.support import PROJECT, Home, database_url_of_tests, together, until

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


def row(kind: str, task_id: str = "t", source: str = "", **fields: Any) -> EventData:
    fields.setdefault("operation", task_id)
    return EventData(at=time.time(), kind=kind, source=source or uuid.uuid4().hex, task_id=task_id, **fields)


def subject(task_id: str | None = None) -> Subject:
    name = task_id or uuid.uuid4().hex
    return Subject(name, name, "acks_late", "w@t", "bank")


def consistent() -> None:
    assert list(differences()) == []


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


# -- writers and their deaths -------------------------------------------------------------------------------------------


def test_tallies_equal_the_events_after_writers_in_several_processes() -> None:
    writers = [write_elsewhere(f"w{number}", 15, 4) for number in range(3)]
    for writer, (_, error) in zip(writers, together([w.communicate for w in writers]), strict=True):
        assert writer.returncode == 0, error
    consistent()
    assert Event.objects.count() == 3 * 15 * 12
    assert Tally.objects.get(task_id="shared").executions == 3 * 15 * 4
    assert Tally.objects.get(task_id="w1-7").deliveries == 4


def test_a_writer_that_is_killed_loses_no_committed_batch_and_leaves_no_half_one() -> None:
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


def test_a_fork_writes_its_own_events_and_leaves_the_parent_s_connection_alone() -> None:
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


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "fork again"])
def test_what_a_fork_commits_survives_that_its_parent_closes(end: str) -> None:
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


def test_a_signal_s_handler_may_note_a_point_while_its_thread_notes_one() -> None:
    def interrupted() -> None:
        with recorder._lock:
            recorder.note("returned", at=time.time(), task_id="t", operation="t")

    thread = threading.Thread(target=interrupted, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    recorder.flush()
    assert Tally.objects.get().ended == 1


def test_rows_appended_again_after_a_failure_in_doubt_count_once() -> None:
    rows = [row("received", "t", "x:1"), row("started", "t", "x:2")]
    store.append(rows)
    # The commit arrived, but its confirmation did not.
    with pytest.raises(LedgerUnavailable):
        store.append(rows)
    store.append(rows)
    tally = Tally.objects.get(task_id="t")
    assert (tally.deliveries, tally.executions, Event.objects.count()) == (1, 1, 2)
    consistent()


def test_what_was_added_to_a_batch_in_doubt_is_not_lost_with_it() -> None:
    rows = [row("received", "t", "x:1"), row("started", "t", "x:2")]
    store.append(rows)
    with pytest.raises(LedgerUnavailable):
        store.append(rows)
    store.append([*rows, row("returned", "t", "x:3")])
    tally = Tally.objects.get(task_id="t")
    assert (tally.deliveries, tally.executions, tally.ended, Event.objects.count()) == (1, 1, 1, 3)
    consistent()


def test_a_source_that_comes_twice_is_loud_when_nothing_was_in_doubt() -> None:
    store.append([row("received", "t", "x:1")])
    with pytest.raises(LedgerUnavailable):
        store.append([row("started", "u", "y:1"), row("received", "t", "x:1")])
    assert Event.objects.count() == 1
    assert not Tally.objects.filter(task_id="u").exists()


def break_table() -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE tasks_demo_event RENAME TO tasks_demo_event_away")


def mend_table() -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE tasks_demo_event_away RENAME TO tasks_demo_event")


@pytest.fixture
def without_table(ledger: None) -> Iterator[None]:
    break_table()
    yield
    if "tasks_demo_event_away" in connection.introspection.table_names():
        mend_table()


@pytest.mark.usefixtures("without_table")
def test_a_missing_table_is_a_sentence_and_a_start_that_needs_it_is_forgotten() -> None:
    waiting = len(recorder._waiting)
    needing = replace(subject("t"), needs_ledger=True)
    with about(needing), pytest.raises(StartNotRecorded, match=r"did not take 1 event.*migrate") as caught:
        reached(Point.STARTED)
    assert "tasks_demo_event" in str(caught.value)
    assert len(recorder._waiting) == waiting, "a start that did not happen must not be written down later"
    mend_table()
    store.append([row("received", "t")])
    assert Tally.objects.get(task_id="t").executions == 0


@pytest.mark.usefixtures("without_table")
def test_the_start_of_a_task_without_a_pattern_is_kept_for_its_body_runs_all_the_same() -> None:
    with about(Subject("t", "t", "", "w@t", "", "shop.x")):
        reached(Point.STARTED)
        mend_table()
        reached(Point.RETURNED)
    recorder.flush()
    tally = Tally.objects.get()
    assert (tally.executions, tally.outcome) == (1, "succeeded")


@pytest.mark.usefixtures("without_table")
def test_what_follows_the_body_is_kept_and_written_when_the_database_is_back() -> None:
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


@pytest.mark.usefixtures("without_table")
@pytest.mark.parametrize("point", [Point.RETURNED, Point.FAILED, Point.RECEIVED])
def test_what_was_kept_is_written_when_the_database_is_back_though_nothing_else_happens(
    point: Point, caplog: pytest.LogCaptureFixture
) -> None:
    reached(point, subject("t"))
    until(lambda: "kept for the next attempt" in caplog.text, "an attempt that failed")
    mend_table()
    until(lambda: Event.objects.filter(kind=point).exists(), "the thread's next attempt")
    consistent()


def test_the_thread_goes_on_after_an_error_that_nobody_expected(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_publication_in_a_transaction_is_written_after_it_though_nothing_else_happens(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM tasks_demo_event WHERE task_id = 'nobody'")
        reached(Point.PUBLISHED, subject("t"))
        transaction.set_rollback(True)
    until(lambda: Event.objects.filter(kind="published").exists(), "the thread's commit", 10)
    assert not caplog.records, "it does not wait for a file that this process itself holds"


@pytest.mark.usefixtures("impatient")
def test_a_locked_database_is_a_sentence_and_nothing_is_written() -> None:
    def append() -> None:
        with pytest.raises(LedgerUnavailable, match="did not take 1 event"):
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


def test_a_database_that_takes_no_writes_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
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


# -- the task's own transactions -----------------------------------------------------------------------------------------


def test_a_rollback_of_the_task_does_not_erase_evidence() -> None:
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
def test_inside_an_open_transaction_of_the_task_nothing_waits_for_itself(
    through: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert time.monotonic() - began < 5.0
    assert Tally.objects.get(task_id=someone.task_id).executions == 1
    consistent()


def test_what_the_main_process_sees_is_written_soon_without_being_asked_again() -> None:
    someone = subject()
    reached(Point.RECEIVED, someone)
    reached(Point.ACKED, someone)
    until(lambda: Event.objects.filter(task_id=someone.task_id).count() == 2, "the thread's commit", 10)


@pytest.mark.parametrize("point", sorted(set(Point) - MUST_PRECEDE - FOLLOWS))
@pytest.mark.parametrize("waits", [False, True], ids=["does not wait", "waits, for the lab"])
def test_a_worker_s_main_process_never_commits_on_its_event_loop(
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
    until(lambda: Event.objects.filter(kind=point).exists() and threads, "the commit", 10)
    # A server may never answer. Then the thread waits for it, and no caller waits for the thread.
    asks_itself = waits and point is not Point.RETURNED and not store.can_hang()
    by = threading.current_thread().name if asks_itself else "ledger"
    assert threads == [by]


def test_celery_tells_the_recorder_that_this_is_a_worker_s_main_process(home: Home) -> None:
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


def test_a_return_is_written_soon_without_another_start_and_write_through_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = subject(), subject()
    with about(first):
        reached(Point.STARTED)
        assert Tally.objects.get(task_id=first.task_id).executions == 1, "a start is committed before the body"
        reached(Point.RETURNED)
    until(lambda: Tally.objects.get(task_id=first.task_id).ended == 1, "the thread's commit", 10)
    monkeypatch.setattr(recorder, "write_through", True)
    with about(second):
        reached(Point.STARTED)
        reached(Point.RETURNED)
    assert Tally.objects.get(task_id=second.task_id).ended == 1
    consistent()


def test_a_pool_process_that_ends_of_its_own_writes_its_last_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "commit_soon", lambda: None)
    monkeypatch.setattr(recorder, "patient", True)  # no thread commits here, so nothing waits for one
    someone = subject()
    with about(someone):
        reached(Point.STARTED)
        reached(Point.RETURNED)
    signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)
    assert Tally.objects.get(task_id=someone.task_id).ended == 1


def test_whoever_notes_a_point_does_not_wait_for_a_commit_that_waits_for_a_lock() -> None:
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


@pytest.mark.parametrize("task_id", ["nul\0", "half \ud800 pair", "long " * 100, "'; DROP TABLE x; --", "%s", "☃"])
def test_a_hostile_task_id_is_kept_as_far_as_a_database_can_and_keeps_nobody_out(task_id: str) -> None:
    someone = subject(task_id)
    with about(someone):
        reached(Point.STARTED)
        reached(Point.RETURNED)
    with about(subject("polite")):
        reached(Point.STARTED)  # also commits the earlier return
    kept = Tally.objects.exclude(task_id="polite").get()
    assert (kept.executions, kept.ended) == (1, 1)
    assert len(kept.task_id) <= 255
    assert kept.task_id[:5] == task_id.replace("\0", "\\0")[:5]
    consistent()


@pytest.mark.parametrize(
    "why",
    [
        "nul \0",
        "half \ud800 pair",
        "a whole pair 😀",
        "a quote ' and %s",
        "\\u0000",
        float("nan"),
        {"x": [float("inf")]},
        {("a", "pair"): 1},
    ],
)
def test_a_hostile_detail_is_kept_and_wedges_nothing(why: Any) -> None:
    store.append([row("failed", "t", detail={"why": why})])
    kept = Event.objects.get().detail["why"]
    if why in ("a whole pair 😀", "a quote ' and %s", "\\u0000"):
        assert kept == why
    assert kept is not None


def test_a_detail_that_nothing_can_write_down_is_named_and_wedges_nothing() -> None:
    itself: dict[str, Any] = {}
    itself["again"] = itself
    store.append([row("failed", "t", detail=itself)])
    assert Event.objects.get().detail == {"not_written": "RecursionError"}


# -- effects and verdicts -------------------------------------------------------------------------------------------------


def test_effects_read_twice_count_once(bank_url: str) -> None:
    client = BankClient(bank_url)
    key = f"twice-{uuid.uuid4()}"
    store.append([row("started", "t1", operation=key, pattern="acks_late", books="bank")])
    client.debit("c", 100, key, source="t1")
    assert copy("bank", Bank(client)) >= 1
    assert copy("bank", Bank(client)) == 0
    client.debit("c", 100, key, source="t1")
    assert copy("bank", Bank(client)) == 1
    client.close()
    tally = Tally.objects.get(task_id="t1")
    assert (tally.effects, tally.verdict, tally.broken) == (2, "duplicated", False)
    consistent()


@pytest.fixture
def shop(ledger: None) -> Iterator[str]:
    """The alias of a shop on PostgreSQL whose bookings so far are in the ledger."""
    alias = router.db_for_write(Booking)
    if connections[alias].vendor != "postgresql":
        pytest.skip("SQLite has one writer: its numbers become visible in their order")
    copy("shop", Bookings())
    yield alias
    Booking.objects.all().delete()


def book(operation: str, count: int = 1) -> None:
    Booking.objects.bulk_create(Booking(operation=operation, customer="c", amount=5) for _ in range(count))


@contextmanager
def booked_in_an_open_transaction(alias: str, operation: str) -> Iterator[None]:
    """The body of an inbox job that sleeps after its effect."""
    with closing(connections.create_connection(alias)) as other, other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(
            "INSERT INTO shop_booking (operation, task_id, customer, amount, created_at) VALUES (%s, %s, 'c', 5, now())",
            [operation, operation],
        )
        yield
        cursor.execute("COMMIT")


def test_a_booking_that_is_committed_after_150_later_ones_were_read_is_not_lost(shop: str) -> None:
    store.append([row("published", "slow", pattern="inbox", books="shop")])
    with booked_in_an_open_transaction(shop, "slow"):
        book("quick", 150)
        assert copy("shop", Bookings()) == 150
        book("quick", 5)
        assert copy("shop", Bookings()) == 5
        assert copy("shop", Bookings()) == 0
    store.append([row("returned", "slow", pattern="inbox", books="shop")])
    assert copy("shop", Bookings()) == 1
    assert settle(time.time() + 1, books="shop") == 0
    tally = Tally.objects.get(task_id="slow")
    assert (tally.effects, tally.verdict) == (1, "ok")
    assert copy("shop", Bookings()) == 0
    consistent()


def test_each_of_several_late_bookings_is_read_whatever_is_read_between_them(shop: str) -> None:
    with booked_in_an_open_transaction(shop, "first"):
        book("quick", 150)
        with booked_in_an_open_transaction(shop, "second"):
            with booked_in_an_open_transaction(shop, "third"):
                book("quick", 150)
                assert copy("shop", Bookings()) == 300
            assert copy("shop", Bookings()) == 1  # a late copy is the newest one now
            book("quick", 501)  # more than one batch
            assert copy("shop", Bookings()) == 501
        assert copy("shop", Bookings()) == 1
        assert copy("shop", Bookings()) == 0
    assert copy("shop", Bookings()) == 1
    counts = Counter(Event.objects.filter(kind=EFFECT).values_list("operation", flat=True))
    assert counts == {"first": 1, "second": 1, "third": 1, "quick": 801}


def test_a_reader_that_dies_between_two_batches_leaves_the_rest_to_the_next(
    shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BATCH", 1)
    appended = []
    append = store.append

    def die_after_one(rows: list[EventData]) -> None:
        append(rows)
        appended.extend(rows)
        if rows:
            raise KeyboardInterrupt

    with booked_in_an_open_transaction(shop, "first"), booked_in_an_open_transaction(shop, "second"):
        book("quick", 150)
        assert copy("shop", Bookings()) == 150
    book("quick")
    with monkeypatch.context() as patch:
        patch.setattr(store, "append", die_after_one)
        with pytest.raises(KeyboardInterrupt):
            copy("shop", Bookings())
    assert len(appended) == 1
    assert copy("shop", Bookings()) == 2
    assert copy("shop", Bookings()) == 0


def test_a_task_heard_of_after_its_effect_takes_it_over() -> None:
    store.append([row(EFFECT, "early", operation="order-1")])
    assert not Tally.objects.exists()
    store.append([row("started", "early", operation="order-1", pattern="dedup_lock", books="bank")])
    store.append([row("started", "late", operation="order-1", pattern="dedup_lock", books="bank")])
    store.append([row("returned", "stranger", operation="order-2", pattern="dedup_lock", books="bank")])
    assert dict(Tally.objects.values_list("task_id", "effects")) == {"early": 1, "late": 1, "stranger": 0}
    store.append([row(EFFECT, "late", operation="order-1")])
    assert dict(Tally.objects.values_list("task_id", "effects")) == {"early": 2, "late": 2, "stranger": 0}
    consistent()


@pytest.fixture
def elsewhere(ledger: None) -> Iterator[Store]:
    """The store of another process."""
    if connection.vendor != "postgresql":
        pytest.skip("two writers at a time: PostgreSQL")
    other = Store()
    yield other
    other.close()


@contextmanager
def half_written(writer: Store, rows: list[EventData]) -> Iterator[Any]:
    """A writer's transaction that stays open for the whole block."""
    batch = Batch(rows, writer._open())
    with closing(writer._open().connection.cursor()) as cursor:
        writer._begin_postgresql(cursor, alone=bool(batch.operations))
        batch.write(cursor)
        yield cursor


def test_a_task_heard_of_at_the_very_moment_of_its_effect_has_it(elsewhere: Store) -> None:
    # The tally sees no effect, and nobody sees the tally yet.
    with half_written(elsewhere, [row("received", "t", operation="op")]) as cursor:
        copied = threading.Thread(target=store.append, args=([row(EFFECT, "t", operation="op")],))
        copied.start()
        until(lambda: _waiting_for_a_lock() or not copied.is_alive(), "the copy of the effect: it waits, or is through")
        cursor.execute("COMMIT")
    copied.join(timeout=30)
    assert not copied.is_alive()
    assert Tally.objects.get(task_id="t").effects == 1
    consistent()


def test_a_process_that_is_stopped_in_the_middle_is_not_waited_for(
    elsewhere: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LOCK_SECONDS", 0.2)
    with half_written(elsewhere, [row("received", "t")]) as cursor:
        with pytest.raises(LedgerUnavailable, match="lock timeout"):
            store.append([row(EFFECT, "t")])
        cursor.execute("ROLLBACK")
    monkeypatch.setattr(store_module, "LOCK_SECONDS", 20)
    monkeypatch.setattr(store_module, "IDLE_SECONDS", 2)
    with half_written(elsewhere, [row("received", "t")]) as cursor:
        store.append([row(EFFECT, "t")])
        with pytest.raises(Exception, match=r"idle-in-transaction timeout|closed"):
            cursor.execute("COMMIT")
    assert not Tally.objects.filter(task_id="t").exists()


#: A process with a child that is killed in the middle of a transaction; the child lives until the test ends it.
ORPHANED = """
import os, signal, sys, time
import django; django.setup()
from tasks_demo.ledger.events import EventData
from tasks_demo.ledger.batch import Batch
from tasks_demo.ledger.store import store
store.append([EventData(at=time.time(), kind="received", source="first", task_id="first")])
pid = os.fork()
if pid == 0:
    sys.stdin.readline()
    os._exit(0)
with store._open().connection.cursor() as cursor:
    store._begin_postgresql(cursor, alone=False)
    Batch([EventData(at=time.time(), kind="received", source="half", task_id="half")], store._open()).write(cursor)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_is_not_waited_for_while_its_child_lives_on(
    elsewhere: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LOCK_SECONDS", 5)  # less than the server's limit for an idle transaction
    env = {**os.environ, "DATABASE_URL": database_url_of_tests(), "DJANGO_SETTINGS_MODULE": "project.settings"}
    killed = subprocess.Popen([sys.executable, "-c", ORPHANED], cwd=PROJECT, env=env, stdin=subprocess.PIPE)
    assert killed.stdin is not None
    try:
        assert killed.wait(60) == -signal.SIGKILL
        store.append([row(EFFECT, "t")])
    finally:
        with suppress(BrokenPipeError):
            killed.stdin.write(b"\n")
            killed.stdin.close()
    assert list(Tally.objects.values_list("task_id", flat=True)) == ["first"]


def _waiting_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return bool(cursor.fetchone()[0])


def test_two_readers_of_one_entry_count_it_once_and_neither_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    store.append([row("published", "t", books="bank"), row("failed", "t")])
    append, other = store.append, Store()

    def second(rows: list[EventData]) -> None:
        monkeypatch.setattr(store, "append", append)
        other.append(rows)  # after this reader has looked for missing rows
        append(rows)

    effect = Effect(7, "t", "t", time.time())
    try:
        monkeypatch.setattr(store, "append", second)
        store_module.append_missing(lambda: reading._missing("shop", "shop:x:", [effect]))
        assert Tally.objects.get().effects == 1
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM tasks_demo_event WHERE kind = 'effect'")
            cursor.execute("UPDATE tasks_demo_tally SET effects = 0")
        monkeypatch.setattr(store, "append", second)
        settle(time.time() + 1, books="bank")
    finally:
        other.close()
    assert Tally.objects.get().settled == 1
    consistent()


def test_whoever_runs_a_task_knows_its_operation_better_than_who_published_it_by_name() -> None:
    store.append([row("published", "t", operation="t")])
    store.append([row(EFFECT, "t", operation="charge:17")])
    store.append(
        [row("received", "t", operation="charge:17", pattern="dedup_lock", books="bank"), row("received", "u")]
    )
    store.append([row("returned", "t", operation="charge:17", pattern="dedup_lock")])
    tally = Tally.objects.get(task_id="t")
    assert (tally.operation, tally.effects, tally.verdict) == ("charge:17", 1, "ok")
    store.append([row("received", "t", operation="charge:18", pattern="dedup_lock", books="bank")])
    assert Tally.objects.get(task_id="t").operation == "charge:17", "corrected once, never changed"
    assert Tally.objects.get(task_id="u").operation == "u"
    consistent()


def test_nothing_is_settled_while_an_execution_of_the_same_operation_may_go_on() -> None:
    for click in ("one", "two"):
        store.append([row("published", click, operation="op", pattern="claim_first", books="bank")])
    store.append([row("started", "one", operation="op")])
    store.append([row("suppressed", "two", operation="op")])
    assert settle(time.time() + 1, books="bank") == 0
    store.append([row("retried", "one", operation="op"), row("started", "one", operation="op")])
    assert settle(time.time() + 1, books="bank") == 0
    # After the maximum time to wait for an end, the worker counts as dead.
    assert settle(time.time() + 7201 + 1, books="bank") == 1
    store.append([row("failed", "one", operation="op")])
    assert settle(time.time() + 1, books="bank") == 1
    assert set(Tally.objects.values_list("settled", flat=True)) == {1}
    consistent()


def test_settling_notes_only_what_ended_before_and_has_no_effect() -> None:
    for task in ("ended", "running", "charged", "nobody counts"):
        books = "" if task == "nobody counts" else "bank"
        store.append([row("published", task, pattern="acks_early", books=books)])
    store.append([row("failed", task, pattern="acks_early") for task in ("ended", "charged", "nobody counts")])
    store.append([row(EFFECT, "charged")])
    assert settle(time.time() + 1, books="bank") == 1
    assert settle(time.time() + 1, books="bank") == 0
    assert dict(Tally.objects.values_list("task_id", "verdict")) == {
        "ended": "lost",
        "running": "unresolved",
        "charged": "ok",
        "nobody counts": "ok",
    }
    with pytest.raises(ValueError, match="a moment and books, or a run"):
        settle()


def test_task_ids_that_differ_at_their_end_only_are_settled_each() -> None:
    ends = ["x", "y", "x" * 60, "x" * 142, "y" * 142]
    task_ids = [f"{'long ' * 22}pre{end}" for end in ends]
    assert [len(task_id) for task_id in task_ids] == [114, 114, 173, 255, 255]
    # One at the length limit, and one equal to another's hash.
    task_ids += ["z" * 112, "z" * 113, sha256(task_ids[0].encode()).hexdigest()]
    for task_id in task_ids:
        store.append([row("published", task_id, books="bank"), row("failed", task_id, books="bank")])
    assert settle(time.time() + 1, books="bank") == len(task_ids)
    assert settle(time.time() + 1, books="bank") == 0
    assert dict(Tally.objects.values_list("task_id", "settled")) == dict.fromkeys(task_ids, 1)
    assert Event.objects.filter(source=f"settled:{'z' * 112}").exists(), "short ones are as they were"
    consistent()


P, R, S, RET, E, Z = "published", "received", "started", "returned", EFFECT, SETTLED


@pytest.mark.parametrize(
    ("kinds", "verdict", "broken"),
    [
        # (events, verdict, the patterns whose promise is broken)
        ([P], "unresolved", ""),
        ([P, R, S], "unresolved", ""),
        ([P, R, S, E], "unresolved", ""),
        ([P, R, S, E, RET], "ok", ""),
        ([P, R, S, E, Z], "ok", ""),
        ([P, R, S, R, S, E, RET], "recovered", "acks_early"),
        ([P, R, R, S, E, RET], "recovered", ""),
        ([P, R, S, RET], "unresolved", ""),
        ([P, R, S, RET, Z], "lost", "acks_late dedup_lock"),
        ([P, Z], "lost", "acks_late dedup_lock"),
        ([R, S, Z], "unresolved", ""),
        ([P, R, S, E, E], "duplicated", "acks_early dedup_lock"),
        ([P, R, S, R, S, E, E, RET, Z], "duplicated", "acks_early dedup_lock"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else str(value),
)
def test_verdict_and_broken_promise_of_each_combination(kinds: list[str], verdict: str, broken: str) -> None:
    for pattern in ("acks_early", "acks_late", "dedup_lock", ""):
        for kind in kinds:
            store.append([row(kind, f"t-{pattern}", pattern=pattern, books="bank")])
        tally = Tally.objects.get(task_id=f"t-{pattern}")
        assert tally.verdict == verdict
        assert tally.broken == (pattern in broken.split()), pattern
    consistent()


D, F, U, Q, X, V, J, I_, Y = (
    "deferred", "failed", "suppressed", "quarantined", "expired", "revoked", "rejected", "ignored", "retried"
)  # fmt: skip
KILLED, AGAIN, BY_HAND = ("failed", "abandoned"), ("deferred", "requeued"), ("published", "requeued")


@pytest.mark.parametrize(
    ("events", "outcome", "verdict", "broken"),
    [
        # (events in order of time, outcome, verdict where nobody counts effects, patterns whose promise is broken)
        ([P], "waiting", "unresolved", ""),
        ([P, R], "waiting", "unresolved", ""),
        ([P, R, S], "running", "unresolved", ""),
        ([P, R, S, RET], "succeeded", "ok", ""),
        ([P, R, S, F], "failed", "ok", ""),
        ([P, R, S, Y], "retrying", "unresolved", ""),
        ([P, R, S, P, Y, R, S], "running", "unresolved", "acks_early"),
        ([P, R, S, P, Y, R, S, RET], "succeeded", "recovered", "acks_early"),
        ([P, R, S, P, Y, R, S, F], "failed", "recovered", "acks_early"),
        ([P, R, S, R, S, RET], "succeeded", "recovered", "acks_early"),
        ([P, R, S, RET, R], "succeeded", "recovered", ""),
        ([P, R, S, RET, R, S], "running", "recovered", "acks_early"),
        ([P, R, S, RET, R, S, RET], "succeeded", "duplicated", "acks_early"),
        ([P, R, S, KILLED], "failed", "lost", "acks_late dedup_lock"),
        ([P, R, S, KILLED, R, S, RET], "succeeded", "recovered", "acks_early"),
        ([P, R, X], "expired", "dropped", ""),
        ([P, R, V], "revoked", "dropped", ""),
        ([P, R, S, V], "revoked", "dropped", ""),
        ([P, J], "rejected", "lost", "acks_late dedup_lock"),
        ([P, R, S, J], "rejected", "ok", ""),
        ([P, R, S, I_], "rejected", "ok", ""),
        ([P, R, S, AGAIN], "waiting", "unresolved", ""),
        ([P, R, S, AGAIN, R, S, RET], "succeeded", "recovered", "acks_early"),
        ([P, R, S, "replaced", R], "waiting", "unresolved", ""),
        ([P, R, P, D, R, S], "running", "unresolved", ""),
        ([P, R, S, R, P, D], "running", "unresolved", ""),
        ([P, R, S, R, S, R, Q], "parked", "parked", "acks_early"),
        ([P, R, S, R, Q, BY_HAND], "waiting", "parked", ""),
        ([P, R, S, R, Q, BY_HAND, R, S, RET], "succeeded", "recovered", "acks_early"),
        ([P, R, U], "succeeded", "ok", ""),
        ([P, R, S, F, R, U], "failed", "recovered", ""),
        ([P, R, S, RET, R, U], "succeeded", "recovered", ""),
    ],
    ids=lambda value: (
        "-".join(item if isinstance(item, str) else item[1] for item in value) if isinstance(value, list) else ""
    ),
)
def test_the_outcome_and_verdict_of_a_task_without_books_whatever_batch_is_committed_last(
    events: list[Any], outcome: str, verdict: str, broken: str
) -> None:
    start = time.time()
    for order in ("in order", "backwards", "all at once", "shuffled"):
        for pattern in ("acks_early", "acks_late", "dedup_lock", ""):
            name = f"{order} {pattern}"
            rows = []
            for number, item in enumerate(events):
                kind, flag = item if isinstance(item, tuple) else (item, "")
                detail = {flag: True} if flag else {}
                rows.append(row(kind, name, pattern=pattern, task="shop.x", detail=detail))
                object.__setattr__(rows[-1], "at", start + number)
            batches = [rows] if order == "all at once" else [[each] for each in rows]
            if order == "backwards":
                batches.reverse()
            elif order == "shuffled":
                random.shuffle(batches)
            for batch in batches:
                store.append(batch)
            tally = Tally.objects.get(task_id=name)
            assert (tally.outcome, tally.verdict, tally.broken) == (
                outcome,
                verdict,
                pattern in broken.split(),
            ), name
            assert tally.task == "shop.x"
    consistent()


@pytest.mark.parametrize(
    ("pattern", "outcome"),
    [("dedup_lock", "succeeded"), ("inbox", "succeeded"), ("claim_first", "running"), ("acks_late", "running")],
)
def test_a_suppressed_copy_says_that_the_work_is_done_where_there_is_a_marker(pattern: str, outcome: str) -> None:
    for kind in (P, R, S, R, U):
        store.append([row(kind, pattern=pattern)])
    assert Tally.objects.get().outcome == outcome


def test_a_revoked_task_with_books_is_dropped_and_breaks_no_promise() -> None:
    for kind in (P, R, V, Z):
        store.append([row(kind, pattern="dedup_lock", books="bank")])
    tally = Tally.objects.get()
    assert (tally.verdict, tally.broken) == ("dropped", False)


def test_a_publication_without_its_confirmation_is_never_called_lost() -> None:
    store.append([row("published", detail={"outcome": "info"}, pattern="acks_late", books="bank"), row(SETTLED)])
    tally = Tally.objects.get()
    assert (tally.verdict, tally.broken) == ("unresolved", False)


# -- the checker of the ledger itself -------------------------------------------------------------------------------------


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


def test_verify_reads_everything_as_of_one_moment_while_others_write() -> None:
    store.append([row("received", task_id) for task_id in "abc"])
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tasks_demo_tally SET executions = 7 WHERE task_id = 'a'")
    found = differences()
    seen = [next(found)]
    store.append([row("started", "b"), row("received", "new")])  # and no writer waits for the reader
    seen += found
    assert seen == ["a: executions is 7, the events say 0."]


def test_evidence_cannot_be_edited_through_the_models() -> None:
    store.append([row("received")])
    for thing in (Event.objects.get(), Tally.objects.get()):
        with pytest.raises(TypeError, match="read-only"):
            thing.save()
        with pytest.raises(TypeError, match="read-only"):
            thing.delete()


def test_a_task_is_found_by_the_beginning_of_its_id_if_that_names_one_only() -> None:
    store.append([row("received", "abc-1"), row("received", "abc-2"), row("received", "abc")])
    found = {text: find(text) for text in ("abc-1", "abc-", "abc", "ab", "", "zzz", "%", "_")}
    assert {text: tally and tally.task_id for text, tally in found.items()} == {
        "abc-1": "abc-1", "abc-": None, "abc": "abc", "ab": None, "": None, "zzz": None, "%": None, "_": None,
    }  # fmt: skip


def test_a_timeline_has_the_task_s_events_and_its_operation_s_effects() -> None:
    store.append([row("started", "t1", operation="o"), row("started", "t2", operation="o")])
    store.append([row(EFFECT, "t2", operation="o", detail={"amount": 5, "account": "c"})])
    tally = find("t1")
    assert tally is not None
    steps = list(timeline(tally))
    assert [step.kind for step in steps] == ["started", "effect"]
    assert steps[1].what == "the books: amount 5, account c"
    assert steps[1].after_ms >= 0


def test_the_recorder_is_armed_once() -> None:
    assert lifecycle.observers().count(recorder) == 1
    assert Path(PROJECT, "tasks_demo", "ledger", "sql", "append_event.sql").exists()


# -- a missing record fails nothing after the start ------------------------------------------------------------------------


@pytest.mark.usefixtures("without_table")
@pytest.mark.parametrize("point", sorted(set(Point) - MUST_PRECEDE))
def test_no_point_after_the_start_raises_though_each_is_written_at_once(
    point: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "write_through", True)
    reached(point, subject("t"))
    mend_table()
    until(lambda: Event.objects.filter(kind=point).exists(), "what was kept")
    consistent()


@pytest.mark.parametrize("error", [ValueError, KeyError, AttributeError, RuntimeError])
def test_whatever_a_driver_raises_is_the_ledger_s_failure(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fall(*_: object) -> None:
        raise error("unexpected")

    with monkeypatch.context() as patch:
        patch.setattr("tasks_demo.core.clock.adapted", fall)
        with pytest.raises(LedgerUnavailable, match="unexpected"):
            store.append([row("started", "t")])
    store.append([row("started", "t")])
    assert Tally.objects.get().executions == 1
