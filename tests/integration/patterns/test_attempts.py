"""Attempts on real workers: poison is parked after the exact number of deaths, and the worker survives."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections, router

from tasks_demo.core.conf import settings as ours
from tasks_demo.core.exceptions import ContradictoryDeclaration
from tasks_demo.leases.keys import record_key
from tasks_demo.leases.protocol import Claimed
from tasks_demo.leases.redis_client import connect
from tasks_demo.leases.redis_store import RedisLeaseStore
from tasks_demo.ledger.models import Event
from tasks_demo.patterns import AcksEarly, AcksLate, DedupLock
from tasks_demo.patterns.attempts import PARKED
from tasks_demo.patterns.parking import message_of
from tasks_demo.records.models import Attempt, Parked
from tests.integration.quarantine.poison_worker import (
    PoisonWorker,
    cure,
    diary,
    entries,
    environment,
    has,
    parked,
    records,
    seen,
    send,
    worker,
)
from tests.support import STATE, Home, Worker, producer_on, until

__all__ = ["diary", "records", "worker"]

pytestmark = pytest.mark.usefixtures("records")


PATTERNS = ["acks_late", "dedup_lock"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_attempts_park_a_poison_message_at_the_limit_and_the_worker_lives(
    worker: Worker, diary: Path, tmp_path: Path, pattern: str
) -> None:
    sent = send(pattern, [str(diary)])
    others = [send("acks_late", [str(tmp_path / "others"), "nothing"]) for _ in range(5)]
    row = parked(sent.id)
    assert [entry["counted"] for entry in entries(diary)] == [1, 2, 3]
    assert (row.attempts, row.pattern, row.task, row.operation) == (3, pattern, f"poison.{pattern}", sent.id)
    assert len({attempt["pid"] for attempt in row.history}) == 3
    assert all(attempt["worker"].endswith("@t") for attempt in row.history)
    assert "Begun 3 times and never ended" in row.reason
    assert not Attempt.objects.filter(task_id=sent.id).exists()
    has(sent.id, "quarantined", "acked")
    assert seen(sent.id, "started") == 3
    for other in others:
        assert other.get(timeout=30) == "done"
    assert worker.alive()
    until(lambda: not Attempt.objects.exists(), "no attempt left over")


@pytest.mark.parametrize("deed", ["kill-main", "memory"])
def test_attempts_count_deaths_of_the_main_process_too(home: Home, redis_url: str, diary: Path, deed: str) -> None:
    """A MemoryError in a body also ends the main process: Celery raises it again there."""
    env = environment(redis_url, TASKS_DEMO_MAX_ATTEMPTS="2", POISON_VISIBILITY_SECONDS="1")
    worker = PoisonWorker(home, STATE / "quarantine-main.log", env, concurrency=1)
    worker.queues = "doomed"  # so that no other worker dies of it
    with worker:
        sent = send("acks_late", [str(diary), deed], queue="doomed")
        for deaths in (1, 2):
            until(lambda: not worker.alive(), f"death {deaths} of the main process")
            assert len(entries(diary)) == deaths
            assert Attempt.objects.get(task_id=sent.id).count == deaths
            worker.stop()
            worker.start()
        assert parked(sent.id).attempts == 2
        has(sent.id, "acked")
        assert worker.alive()
    assert len(entries(diary)) == 2


@pytest.mark.usefixtures("worker")
def test_attempts_are_on_record_while_the_body_runs_and_gone_when_it_has_returned(diary: Path) -> None:
    sent = send("acks_late", [str(diary), "nothing"])
    assert sent.get(timeout=30) == "done"
    assert [entry["counted"] for entry in entries(diary)] == [1]
    until(lambda: not Attempt.objects.exists(), "the attempt taken back")


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("pattern", PATTERNS)
def test_attempts_count_neither_exceptions_nor_retries(diary: Path, pattern: str) -> None:
    sent = send(pattern, [str(diary), "retry"])
    failure = sent.get(timeout=30, propagate=False)
    assert "after 4 retries" in str(failure)
    assert [entry["counted"] for entry in entries(diary)] == [1] * 5
    once = send("once", [str(diary), "raise"])
    assert "on purpose" in str(once.get(timeout=30, propagate=False))
    until(lambda: not Attempt.objects.exists(), "the attempts taken back")  # each after its copy was published
    assert not Parked.objects.exists()


@pytest.mark.usefixtures("worker")
@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("pattern", PATTERNS)
def test_attempts_of_a_job_whose_retry_cannot_be_published_do_not_drop_it(diary: Path, pattern: str) -> None:
    """Celery rejects it without requeueing: the broker would drop it."""
    sent = send(pattern, [str(diary), "unpublishable retry"])
    until(lambda: len(entries(diary)) >= 2, "a second execution")
    cure(diary)
    assert sent.get(timeout=30) == "cured"
    assert not Parked.objects.exists(), "nobody died"
    has(sent.id, "returned", "acked")


def test_attempts_are_not_counted_when_the_operation_function_raises(worker: Worker, diary: Path) -> None:
    main = worker.pid
    for _ in range(3):
        sent = send("no_key", [str(diary)])
        assert "ZeroDivisionError" in repr(sent.get(timeout=30, propagate=False))
        has(sent.id, "received", "failed", "acked")
    assert send("acks_late", [str(diary), "nothing"]).get(timeout=30) == "done"
    assert worker.alive()
    assert worker.pid == main


@pytest.mark.usefixtures("worker")
def test_attempts_count_a_body_that_leaves_by_sys_exit_as_a_death(diary: Path) -> None:
    assert parked(send("acks_late", [str(diary), "exit"]).id).attempts == 3
    assert len(entries(diary)) == 3


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("pattern", [*PATTERNS, "inbox"])
def test_attempts_take_back_a_deferred_one_and_not_the_deaths_before(diary: Path, pattern: str) -> None:
    task_id = str(uuid.uuid4())
    flag = Path(f"{STATE / 'die-after-parking'}.{task_id}")
    flag.touch()
    sent = send(pattern, [str(diary)], task_id=task_id)
    row = parked(sent.id)
    assert flag.read_text() == "deferred"
    assert [entry["counted"] for entry in entries(diary)] == [1, 2, 3]
    assert row.attempts == 3


def test_attempts_neither_count_nor_erase_a_deferral_by_another_holder(home: Home, redis_url: str, diary: Path) -> None:
    env = environment(redis_url, TASKS_DEMO_MAX_ATTEMPTS="2", POISON_VISIBILITY_SECONDS="1")
    worker = PoisonWorker(home, STATE / "quarantine-held.log", env, concurrency=1)
    worker.queues = "doomed"
    with worker, connect(redis_url, 5.0) as client:
        leases = RedisLeaseStore(client, ours.KEY_PREFIX, 60.0, 600.0)
        sent = send("dedup_lock", [str(diary), "kill-main"], queue="doomed")
        until(lambda: not worker.alive(), "the first death")
        dead = {name.decode(): value for name, value in client.hgetall(record_key(ours.KEY_PREFIX, sent.id)).items()}
        held = leases.claim(sent.id, dead["digest"].decode(), "another", int(dead["fence"]))
        assert isinstance(held, Claimed)
        worker.stop()
        worker.start()
        until(lambda: seen(sent.id, "deferred") >= 2, "two deferrals")
        assert Attempt.objects.get(task_id=sent.id).count == 1
        leases.release(held)
        until(lambda: not worker.alive(), "the second death")
        worker.stop()
        worker.start()
        assert parked(sent.id).attempts == 2
    assert [entry["counted"] for entry in entries(diary)] == [1, 2]


@pytest.mark.usefixtures("worker")
def test_attempts_may_have_a_limit_of_their_task(diary: Path) -> None:
    assert parked(send("once", [str(diary)]).id).attempts == 1
    assert len(entries(diary)) == 1


@pytest.mark.usefixtures("worker")
def test_attempts_without_a_limit_are_not_counted(diary: Path) -> None:
    sent = send("unlimited", [str(diary)])
    until(lambda: len(entries(diary)) > 4, "more deaths than the limit of the others")
    cure(diary)
    assert sent.get(timeout=30) == "cured"
    assert {entry["counted"] for entry in entries(diary)} == {None}


@pytest.mark.usefixtures("worker")
def test_attempts_that_cannot_be_counted_run_no_body_and_requeue_the_message(diary: Path) -> None:
    with away("tasks_demo_records_attempt"):
        sent = send("acks_late", [str(diary), "nothing"])
        locked = send("dedup_lock", [str(diary), "nothing"])
        has(sent.id, "deferred")
        has(locked.id, "deferred")
        assert entries(diary) == []
    assert [sent.get(timeout=30), locked.get(timeout=30)] == ["done", "done"]
    why = Event.objects.filter(task_id=sent.id, kind="deferred").first()
    assert why is not None
    assert "The attempt could not be counted" in why.detail["why"]
    assert len(entries(diary)) == 2


@contextmanager
def away(table: str) -> Iterator[None]:
    """Rename the table for the duration of the block; no process finds it."""
    with connections[router.db_for_write(Attempt)].cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO {table}_away")
        try:
            yield
        finally:
            cursor.execute(f"ALTER TABLE {table}_away RENAME TO {table}")


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("task_id", ["x" * 300, "tab\tand NUL \0"], ids=["long", "nul"])
def test_attempts_count_a_task_id_that_no_column_holds(redis_url: str, diary: Path, task_id: str) -> None:
    headers = {"task": "poison.once", "id": task_id, "lang": "py", "root_id": task_id}
    body = [[str(diary)], {}, {}]
    with producer_on(redis_url) as producer:
        producer.publish(body, routing_key="celery", serializer="json", headers=headers, correlation_id="c")
    row = until(lambda: Parked.objects.first(), "the parked message")
    assert row.task_id.startswith("sha256:")
    assert message_of(row).options["task_id"] == task_id
    assert len(entries(diary)) == 1


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("forged", ["x", 10**30, -1, None, [1]], ids=str)
def test_attempts_are_not_bypassed_by_a_forged_header(diary: Path, forged: Any) -> None:
    sent = send("once", [str(diary)], headers={PARKED: forged})
    assert parked(sent.id).attempts == 1
    assert len(entries(diary)) == 1


@pytest.mark.parametrize("base", [AcksLate, DedupLock])
@pytest.mark.parametrize("limit", [0, -1, 2.0, "3", True])
def test_attempts_refuse_an_invalid_limit(base: Any, limit: Any) -> None:
    with pytest.raises(ContradictoryDeclaration, match="Write a whole number from 1, or None"):
        base.task(name="never.declared", max_attempts=limit)
    with pytest.raises(ContradictoryDeclaration, match="Write a whole number from 1, or None"):
        type("Never", (base,), {"abstract": True, "max_attempts": limit})


def test_attempts_have_no_limit_where_nothing_comes_back() -> None:
    with pytest.raises(ContradictoryDeclaration, match="is not redelivered"):
        AcksEarly.task(name="never.declared", max_attempts=3)


def test_attempts_have_a_setting_as_their_default_limit(settings: Any) -> None:
    assert AcksLate.max_attempts == DedupLock.max_attempts == 5
    settings.TASKS_DEMO_MAX_ATTEMPTS = 2
    assert (AcksLate.max_attempts, AcksEarly.max_attempts) == (2, None)


def test_attempts_sql_names_the_tables_of_the_models() -> None:
    assert (Attempt._meta.db_table, Parked._meta.db_table) == (
        "tasks_demo_records_attempt",
        "tasks_demo_records_parked",
    )
    assert connection.vendor in {"sqlite", "postgresql"}
