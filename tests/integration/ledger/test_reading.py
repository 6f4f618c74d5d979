"""Reading books: every effect is counted once, whoever commits late, dies or reads at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest
from django.db import connection, connections, router

from tasks_demo.core.exceptions import LedgerUnavailable
from tasks_demo.demo.bank.client import BankClient
from tasks_demo.demo.ledger_books import Bank, Bookings
from tasks_demo.demo.shop.models import Booking
from tasks_demo.ledger import reading
from tasks_demo.ledger import store as store_module
from tasks_demo.ledger.batch import Batch, Moments
from tasks_demo.ledger.books import Effect
from tasks_demo.ledger.events import EFFECT, EventData
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.ledger.reading import copy
from tasks_demo.ledger.settling import settle
from tasks_demo.ledger.store import Store, store
from tests.integration.ledger.ledger_table import consistent, row
from tests.support import PROJECT, database_url_of_tests, until

pytestmark = pytest.mark.usefixtures("ledger")


def test_reading_counts_effects_once_that_are_read_twice(bank_url: str) -> None:
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


def test_reading_finds_a_booking_that_is_committed_after_150_later_ones(shop: str) -> None:
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


def test_reading_finds_each_of_several_late_bookings(shop: str) -> None:
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


def test_reading_goes_on_where_a_dead_reader_stopped(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_reading_gives_an_effect_to_a_task_that_is_recorded_later() -> None:
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
    batch = Batch(rows, Moments(writer._open()))
    with closing(writer._open().connection.cursor()) as cursor:
        writer._begin_postgresql(cursor, alone=bool(batch.operations))
        batch.write(cursor)
        yield cursor


def test_reading_gives_an_effect_to_a_task_recorded_at_the_same_moment(elsewhere: Store) -> None:
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


def test_reading_does_not_wait_for_a_stopped_process(elsewhere: Store, monkeypatch: pytest.MonkeyPatch) -> None:
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
from tasks_demo.ledger.batch import Batch, Moments
from tasks_demo.ledger.store import store
store.append([EventData(at=time.time(), kind="received", source="first", task_id="first")])
pid = os.fork()
if pid == 0:
    sys.stdin.readline()
    os._exit(0)
with store._open().connection.cursor() as cursor:
    store._begin_postgresql(cursor, alone=False)
    Batch([EventData(at=time.time(), kind="received", source="half", task_id="half")], Moments(store._open())).write(cursor)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_reading_does_not_wait_for_a_killed_process_whose_child_lives(
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


def test_reading_counts_an_entry_once_for_two_readers(monkeypatch: pytest.MonkeyPatch) -> None:
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
