"""Signals to the relays: sent on commit only, never in the way of ``enqueue``, and cheap while nothing happens."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.db import connections, transaction

from tasks_demo.outbox import enqueue, wake
from tasks_demo.outbox.decisions import hasten
from tasks_demo.outbox.relay import Relay
from tasks_demo.outbox.wake import CHANNEL, WakeUps, _Signal
from tasks_demo.records.models import OutboxMessage
from tests.integration.outbox.outbox_table import copies, relay_to, row
from tests.integration.servers.redis import RedisServer
from tests.support import until

JOB = "celery.accumulate"
NEVER = threading.Event()
#: Long enough for a signal, seconds; what is not woken within it is not woken.
MOMENT = 0.2


@pytest.fixture
def ears(table: str) -> Iterator[WakeUps]:
    """What a relay of this outbox receives. It has begun to receive."""
    receives = WakeUps(table)
    assert receives.wait(0, NEVER), "it must look once: messages may have been committed before"
    yield receives
    receives.close()


def sqlite_only(alias: str) -> Path:
    """The folder of the FIFOs."""
    if connections[alias].vendor != "sqlite":
        pytest.skip("PostgreSQL has no FIFOs")
    return Path(f"{os.path.realpath(connections[alias].settings_dict['NAME'])}-relays")


def test_wake_on_commit_and_not_before(table: str, ears: WakeUps) -> None:
    with transaction.atomic(using=table):
        enqueue(JOB, [1])
        assert not ears.wait(MOMENT, NEVER)
    assert ears.wait(30, NEVER)
    assert not ears.wait(MOMENT, NEVER), "one commit, one signal"
    enqueue(JOB, [2])
    assert ears.wait(30, NEVER), "without a transaction: at once"


def rolled_back(alias: str) -> None:
    with transaction.atomic(using=alias):
        enqueue(JOB, [1])
        raise RuntimeError("rolled back")


def test_wake_never_for_what_was_rolled_back(table: str, ears: WakeUps) -> None:
    with pytest.raises(RuntimeError):
        rolled_back(table)
    with transaction.atomic(using=table), pytest.raises(RuntimeError):
        rolled_back(table)
    assert not ears.wait(MOMENT, NEVER)
    assert OutboxMessage.objects.count() == 0


def test_wake_once_for_a_transaction_also_if_its_first_savepoint_is_rolled_back(table: str, ears: WakeUps) -> None:
    with transaction.atomic(using=table):
        for number in range(50):
            enqueue(JOB, [number])
        hooks = connections[table].run_on_commit
        assert sum(isinstance(hook, _Signal) for _, hook, _ in hooks) == 1
    assert ears.wait(30, NEVER)
    with transaction.atomic(using=table):
        with pytest.raises(RuntimeError):
            rolled_back(table)  # a savepoint
        enqueue(JOB, [2])
    assert ears.wait(30, NEVER)


def test_wake_every_relay(table: str, ears: WakeUps) -> None:
    other = WakeUps(table)
    assert other.wait(0, NEVER)
    try:
        enqueue(JOB, [1])
        assert ears.wait(30, NEVER)
        assert other.wait(30, NEVER)
    finally:
        other.close()


def test_wake_for_a_message_that_a_person_hastens(table: str, ears: WakeUps) -> None:
    task_id = enqueue(JOB, [1], countdown=3600)
    assert ears.wait(30, NEVER)
    assert hasten(row(task_id))
    assert ears.wait(30, NEVER)


def test_relay_that_is_woken_publishes_long_before_its_next_look(table: str, broker: RedisServer) -> None:
    stop, relay = threading.Event(), relay_to(broker.url, interval=3600.0)

    def customer() -> None:
        try:
            until(lambda: relay._wake_ups._source, "a relay that receives")
            for number in range(3):
                task_id = enqueue(JOB, [number], task_id=f"woken-{number}")
                until(lambda task_id=task_id: copies(broker.url)[task_id], "its message")  # type: ignore[misc]
        finally:
            stop.set()
            connections.close_all()

    thread = threading.Thread(target=customer)
    thread.start()
    relay.run(stop)
    thread.join()
    assert sum(copies(broker.url).values()) == 3


def test_relay_that_waits_asks_the_database_only_every_interval(table: str, broker: RedisServer) -> None:
    stop, relay, asked = threading.Event(), relay_to(broker.url, interval=0.5), [0]

    def count(execute: Callable[..., Any], *statement: Any) -> Any:
        asked[0] += 1
        return execute(*statement)

    relay.run_once()
    relay._prune_now_and_then()
    timer = threading.Timer(2.0, stop.set)
    with connections[table].execute_wrapper(count):
        began = time.monotonic()
        timer.start()
        relay.run(stop)
        took = time.monotonic() - began
    # One statement a look: the first, the one when it begins to receive signals, and one every half second.
    assert 2 < asked[0] <= 2 + took / 0.5


def test_enqueue_succeeds_where_no_signal_can_be_sent(
    table: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no signals today")

    for sender in ("_notify", "_write_to_fifos"):
        monkeypatch.setattr(f"tasks_demo.outbox.wake.{sender}", refuse)
    caplog.set_level("INFO")
    assert row(enqueue(JOB, [1])).published_at is None
    with transaction.atomic(using=table):
        enqueue(JOB, [2])
    assert OutboxMessage.objects.count() == 2
    assert "no relay was woken (OSError: no signals today)" in caplog.text


def test_fifo_of_a_dead_relay_is_deleted_and_nothing_else(table: str) -> None:
    folder = sqlite_only(table)
    folder.mkdir(exist_ok=True)
    stale, file, link = folder / "1-stale", folder / "a file", folder / "a link"
    os.mkfifo(stale)
    file.write_text("kept")
    link.symlink_to(file)
    try:
        enqueue(JOB, [1])
        assert not stale.exists()
        assert file.read_text() == "kept"
        assert link.is_symlink()
    finally:
        file.unlink()
        link.unlink()


def test_relay_whose_fifo_is_deleted_before_it_reads_makes_another(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sqlite_only(table)
    let_in, deleted = wake._let_in, []

    def signalled_meanwhile(path: Path, like: os.stat_result) -> None:
        let_in(path, like)
        if path != folder and not deleted:
            deleted.append(path)
            wake._write_to_fifos(folder)
            assert not path.exists()

    monkeypatch.setattr(wake, "_let_in", signalled_meanwhile)
    receives = WakeUps(table)
    assert receives.wait(0, NEVER)
    assert deleted
    enqueue(JOB, [1])
    assert receives.wait(30, NEVER)
    receives.close()


def test_relay_that_does_not_read_makes_nobody_wait(table: str, ears: WakeUps) -> None:
    sqlite_only(table)
    fifo = ears._source._write
    os.set_blocking(fifo, False)
    with suppress(BlockingIOError):
        while True:
            os.write(fifo, b"\n" * 4096)
    enqueue(JOB, [1])
    assert ears.wait(30, NEVER)
    assert not ears.wait(MOMENT, NEVER), "it has read all"


def test_relay_lets_those_send_signals_who_may_write_to_the_database(table: str) -> None:
    sqlite_only(table)
    database = Path(connections[table].settings_dict["NAME"])
    before, mask = database.stat().st_mode, os.umask(0o077)
    receives = WakeUps(table)
    try:
        database.chmod(0o660)
        receives.wait(0, NEVER)
        assert stat.S_IMODE(receives._source._path.stat().st_mode) == 0o660
    finally:
        os.umask(mask)
        database.chmod(stat.S_IMODE(before))
        receives.close()


def test_relay_removes_its_fifo_when_it_ends(table: str, ears: WakeUps) -> None:
    folder = sqlite_only(table)
    path = ears._source._path
    assert path in set(folder.iterdir())
    ears.close()
    assert path not in set(folder.iterdir())


def test_relay_that_cannot_receive_looks_at_intervals(
    table: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("read-only")

    for source in ("_Listening", "_Fifo"):
        monkeypatch.setattr(f"tasks_demo.outbox.wake.{source}", refuse)
    receives = WakeUps(table)
    began = time.monotonic()
    assert not receives.wait(MOMENT, NEVER)
    assert time.monotonic() - began >= MOMENT
    assert "the relay receives no signals (PermissionError: read-only)" in caplog.text
    monkeypatch.undo()
    assert not receives.wait(0, NEVER), "it tries again only after a while"
    receives._open_at = 0.0
    assert receives.wait(0, NEVER)
    receives.close()


def test_relay_whose_listening_connection_ends_listens_again(table: str, ears: WakeUps) -> None:
    if connections[table].vendor != "postgresql":
        pytest.skip("SQLite has no connection to lose")
    with connections[table].cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = %s AND pid = %s",
            [f"LISTEN {CHANNEL}", ears._source._connection.connection.info.backend_pid],
        )
        assert cursor.fetchall() == [(True,)]
    until(lambda: not ears.wait(0.01, NEVER) and ears._source is None, "the end of the connection, seen by the relay")
    ears._open_at = 0.0
    assert ears.wait(0, NEVER), "it looks, because it may have missed a signal"
    enqueue(JOB, [1])
    assert ears.wait(30, NEVER)


def test_notify_leaves_a_transaction_begun_by_hand_alone(table: str, ears: WakeUps) -> None:
    if connections[table].vendor != "postgresql":
        pytest.skip("only PostgreSQL's signal is a statement")
    with connections[table].cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            enqueue(JOB, [1])
            cursor.execute("SHOW synchronous_commit")
            assert cursor.fetchone() == ("on",)
        finally:
            cursor.execute("COMMIT")
    assert not ears.wait(MOMENT, NEVER)
    assert Relay()._table.take(1)[0]
