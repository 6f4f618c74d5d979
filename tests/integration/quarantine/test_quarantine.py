"""Poison on real workers: parked after the exact number of deaths, never lost when parked or requeued; the worker survives."""

from __future__ import annotations

import json
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import current_app
from celery.app.task import Context
from django.db import connection, connections, router, transaction

from tasks_demo.core.conf import settings as ours
from tasks_demo.core.exceptions import ContradictoryDeclaration, EnvironmentNotReady, RequeueFailed
from tasks_demo.demo.tasks import CHARGES
from tasks_demo.leases.keys import record_key
from tasks_demo.leases.protocol import Claimed
from tasks_demo.leases.redis_client import connect
from tasks_demo.leases.redis_store import RedisLeaseStore
from tasks_demo.ledger.models import Event
from tasks_demo.patterns import AcksEarly, AcksLate, DedupLock
from tasks_demo.patterns.attempts import PARKED, _admit
from tasks_demo.patterns.parking import _packed, message_of
from tasks_demo.quarantine import discard, requeue
from tasks_demo.records.models import Attempt, Decision, Parked
from tests.integration.quarantine.parked_rows import lying
from tests.support import PROJECT, STATE, Home, Worker, database_url_of_tests, producer_on, together, until

pytestmark = pytest.mark.usefixtures("records")
PATTERNS = ["acks_late", "dedup_lock"]


def send(task: str, args: list[Any], kwargs: dict[str, Any] | None = None, **options: Any) -> Any:
    """Publish one of the jobs of ``poison.py``, which this process does not import, as a web process need not."""
    return current_app.send_task(f"poison.{task}", args, kwargs, **options)


class PoisonWorker(Worker):
    """A worker with the poison tasks."""

    queues = "celery,side"

    def start(self) -> None:
        from tasks_demo.demo.stack.processes import spawn

        self.log.unlink(missing_ok=True)
        command = [sys.executable, "-m", "celery", "-A", "project", "worker", "-Q", self.queues]
        command += ["--include", "tests.integration.quarantine.poison"]
        command += [f"--concurrency={self._concurrency}", "--loglevel=INFO", "--without-mingle", "--without-gossip"]
        name = f"--hostname=w{uuid.uuid4().hex[:6]}@t"
        self._process = spawn([*command, name], log=self.log, env=self._env, cwd=PROJECT)
        until(lambda: self.ready() or not self.alive(), "the worker's readiness", 60)
        # It may be dead again: poison waiting in the queue kills at once.
        assert self.ready(), self.log.read_text(errors="replace")[-3000:]


def environment(redis_url: str, **more: str) -> dict[str, str]:
    """The environment of a worker on the test databases."""
    env = {
        "DATABASE_URL": database_url_of_tests(),
        "REDIS_URL": redis_url,
        "TASKS_DEMO_LEASE_SECONDS": "1",
        "TASKS_DEMO_DEFER_MAX_SECONDS": "1",
        "TASKS_DEMO_MAX_ATTEMPTS": "3",
        "POISON_FLAG": str(STATE / "die-after-parking"),
        **more,
    }
    alias = router.db_for_write(Parked)
    if alias != "default":
        env["SHOP_DATABASE_URL"] = f"sqlite:///{connections[alias].settings_dict['NAME']}"
    return env


@pytest.fixture(scope="module")
def worker(home: Home, redis_url: str, django_db_setup: None) -> Iterator[Worker]:
    with PoisonWorker(home, STATE / "quarantine-worker.log", environment(redis_url)) as running:
        yield running


@pytest.fixture
def records(ledger: None) -> Iterator[None]:
    """The tables of the quarantine, emptied afterwards."""
    yield
    for model in (Decision, Parked, Attempt):
        model.objects.all().delete()


@pytest.fixture
def diary(short: Path) -> Path:
    return short / "diary"


def entries(diary: Path) -> list[dict[str, Any]]:
    """The diary lines of the bodies, in order; one per execution."""
    return [json.loads(line) for line in diary.read_text().splitlines()] if diary.exists() else []


def cure(diary: Path) -> None:
    Path(f"{diary}.cure").touch()


def parked(task_id: str, seconds: float = 30.0) -> Parked:
    """The row of a message, once it is parked."""
    rows = Parked.objects.filter(task_id=task_id, state="parked")
    return until(rows.first, f"{task_id} parked", seconds)


def seen(task_id: str, kind: str) -> int:
    return Event.objects.filter(task_id=task_id, kind=kind).count()


def has(task_id: str, *kinds: str) -> None:
    until(lambda: all(seen(task_id, kind) for kind in kinds), f"{kinds} of {task_id}")


# -- counting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_poison_message_is_parked_after_exactly_so_many_deaths_and_the_worker_lives(
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
def test_deaths_of_the_main_process_are_counted_too(home: Home, redis_url: str, diary: Path, deed: str) -> None:
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
def test_an_attempt_is_on_record_while_the_body_runs_and_gone_when_it_has_returned(diary: Path) -> None:
    sent = send("acks_late", [str(diary), "nothing"])
    assert sent.get(timeout=30) == "done"
    assert [entry["counted"] for entry in entries(diary)] == [1]
    until(lambda: not Attempt.objects.exists(), "the attempt taken back")


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("pattern", PATTERNS)
def test_neither_exceptions_nor_retries_add_up(diary: Path, pattern: str) -> None:
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
def test_a_job_whose_retry_cannot_be_published_comes_back_and_is_not_dropped(diary: Path, pattern: str) -> None:
    """Celery rejects it without requeueing: the broker would drop it."""
    sent = send(pattern, [str(diary), "unpublishable retry"])
    until(lambda: len(entries(diary)) >= 2, "a second execution")
    cure(diary)
    assert sent.get(timeout=30) == "cured"
    assert not Parked.objects.exists(), "nobody died"
    has(sent.id, "returned", "acked")


def test_an_operation_function_that_raises_fails_its_job_and_the_worker_lives(worker: Worker, diary: Path) -> None:
    main = worker.pid
    for _ in range(3):
        sent = send("no_key", [str(diary)])
        assert "ZeroDivisionError" in repr(sent.get(timeout=30, propagate=False))
        has(sent.id, "received", "failed", "acked")
    assert send("acks_late", [str(diary), "nothing"]).get(timeout=30) == "done"
    assert worker.alive()
    assert worker.pid == main


@pytest.mark.usefixtures("worker")
def test_a_body_that_leaves_by_sys_exit_takes_its_process_along_and_that_is_a_death_too(diary: Path) -> None:
    assert parked(send("acks_late", [str(diary), "exit"]).id).attempts == 3
    assert len(entries(diary)) == 3


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("pattern", [*PATTERNS, "inbox"])
def test_a_deferral_after_it_was_counted_takes_back_its_own_attempt_and_not_the_deaths_before(
    diary: Path, pattern: str
) -> None:
    task_id = str(uuid.uuid4())
    flag = Path(f"{STATE / 'die-after-parking'}.{task_id}")
    flag.touch()
    sent = send(pattern, [str(diary)], task_id=task_id)
    row = parked(sent.id)
    assert flag.read_text() == "deferred"
    assert [entry["counted"] for entry in entries(diary)] == [1, 2, 3]
    assert row.attempts == 3


def test_a_deferral_by_another_holder_neither_counts_nor_erases(home: Home, redis_url: str, diary: Path) -> None:
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
def test_a_task_may_have_a_limit_of_its_own(diary: Path) -> None:
    assert parked(send("once", [str(diary)]).id).attempts == 1
    assert len(entries(diary)) == 1


@pytest.mark.usefixtures("worker")
def test_without_a_limit_it_comes_back_for_ever_and_nothing_is_counted(diary: Path) -> None:
    sent = send("unlimited", [str(diary)])
    until(lambda: len(entries(diary)) > 4, "more deaths than the limit of the others")
    cure(diary)
    assert sent.get(timeout=30) == "cured"
    assert {entry["counted"] for entry in entries(diary)} == {None}


@pytest.mark.usefixtures("worker")
def test_when_its_database_does_not_answer_no_body_runs_and_the_message_is_requeued(diary: Path) -> None:
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


# -- parking once ----------------------------------------------------------------------------------------------------


def test_killed_between_parking_and_acknowledging_it_is_parked_once_and_not_run_again(
    worker: Worker, diary: Path
) -> None:
    flag = STATE / "die-after-parking"
    task_id = str(uuid.uuid4())
    flag.write_text(task_id)
    sent = send("once", [str(diary)], task_id=task_id)
    row = parked(sent.id)
    until(lambda: not flag.exists(), "the death after parking")
    has(sent.id, "acked")
    assert list(Parked.objects.values_list("pk", flat=True)) == [row.pk]
    assert len(entries(diary)) == 1
    assert seen(sent.id, "quarantined") == 2
    assert seen(sent.id, "started") == 1
    assert worker.alive()


@pytest.mark.usefixtures("worker")
def test_the_lease_of_a_parked_message_is_released(redis_url: str, diary: Path) -> None:
    sent = send("dedup_lock", [str(diary)])
    row = parked(sent.id)
    with connect(redis_url, 5.0) as client:
        key = record_key(ours.KEY_PREFIX, sent.id)
        until(lambda: client.hget(key, "state") == b"released", "the lease given back")
    cure(diary)
    assert requeue(row, by="somebody", why="")
    assert sent.get(timeout=10) == "cured"


# -- sent again ------------------------------------------------------------------------------------------------------


HOSTILE = [
    "NUL \0 and half a pair \ud800",
    b"\x00\xff",
    {"\0": ["\udfff", None, True, 2**80, 0.1, -0.0]},
    [datetime(2026, 1, 2, 3, 4, 5, 6, UTC), Decimal("0.10"), uuid.UUID(int=7)],
    {"__type__": 1, "\\u0000": "\\"},
]


@pytest.mark.usefixtures("worker")
def test_what_is_sent_again_is_what_was_parked(diary: Path) -> None:
    """Arguments that a jsonb column refuses, queue, priority, headers, and the continuation of the workflow."""
    sent = send(
        "once",
        [str(diary)],
        {"note": HOSTILE},
        queue="side",
        priority=3,
        headers={"trace": "abc"},
        link=current_app.signature("poison.linked", args=(str(diary),)),
        expires=3600,
    )
    row = parked(sent.id)
    has(sent.id, "acked")
    copy = message_of(row)
    assert (copy.args, copy.kwargs) == ([str(diary)], {"note": HOSTILE})
    assert copy.options["expires"] is None, "whoever sends it again wants it run"

    cure(diary)
    assert requeue(row, by="somebody", why="the disk is back")
    assert sent.get(timeout=30) == "cured"
    first, second, after = until(lambda: len(entries(diary)) == 3 and entries(diary), "what was linked")
    assert second["headers"] == {"trace": "abc", PARKED: row.pk}
    assert {**second, "headers": None} == {**first, "headers": None}
    assert (first["routing_key"], first["priority"], first["counted"]) == ("side", 3, 1)
    assert after == {"linked": "cured"}
    row.refresh_from_db()
    assert row.state == "requeued"
    assert list(row.decisions.values_list("decision", "by", "why")) == [("requeue", "somebody", "the disk is back")]
    assert seen(sent.id, "published") == 2


@pytest.mark.usefixtures("worker")
def test_poison_that_is_sent_again_too_early_is_parked_again(diary: Path) -> None:
    sent = send("once", [str(diary)])
    assert requeue(parked(sent.id), by="somebody", why="hope")
    until(lambda: Parked.objects.filter(task_id=sent.id).count() == 2, "the second parking")
    assert list(Parked.objects.order_by("id").values_list("state", flat=True)) == ["requeued", "parked"]
    assert len(entries(diary)) == 2


@pytest.mark.usefixtures("worker")
def test_a_copy_whose_sender_died_before_the_mark_is_run_all_the_same_and_parked_once_more(diary: Path) -> None:
    sent = send("once", [str(diary)])
    row = parked(sent.id)
    has(sent.id, "acked")
    message_of(row).apply_async(headers={PARKED: row.pk})  # without the mark
    until(lambda: Parked.objects.filter(task_id=sent.id).count() == 2, "the second parking")
    assert len(entries(diary)) == 2
    row.refresh_from_db()
    assert row.state == "requeued"


@pytest.mark.usefixtures("worker")
def test_any_other_copy_of_a_parked_message_is_not_run(diary: Path) -> None:
    sent = send("once", [str(diary)])
    row = parked(sent.id)
    message_of(row).apply_async()
    until(lambda: seen(sent.id, "quarantined") == 2, "the refusal of the copy")
    assert (len(entries(diary)), Parked.objects.count()) == (1, 1)


def test_a_copy_that_comes_while_its_message_is_being_parked_is_not_run() -> None:
    alias = router.db_for_write(Attempt)
    if connections[alias].vendor != "postgresql":
        pytest.skip("SQLite has one writer")
    row = lying()
    Parked.objects.update(state="requeued")
    Attempt.objects.create(task_id=row.task_id, retries=0, count=3, history="", last_at=datetime.now(UTC))
    task = SimpleNamespace(request=Context(id=row.task_id, headers={}))
    admitted: list[bool] = []

    def copy() -> None:
        try:
            admitted.append(_admit(task, alias, (row.task_id, 0), "{}\n", 3))
        finally:
            connections.close_all()

    waits = threading.Thread(target=copy)
    with transaction.atomic(using=alias):
        Parked.objects.update(state="parked")
        Attempt.objects.all().delete()
        waits.start()
        with connections[alias].cursor() as cursor:

            def waiting() -> bool:
                cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'")
                return bool(cursor.fetchone()[0])

            until(lambda: waiting() or admitted, "the copy, which waits for this row")
    waits.join(30)
    assert admitted == [False]
    assert not Attempt.objects.exists()


@pytest.mark.usefixtures("worker")
def test_a_copy_that_asks_for_a_retry_is_not_taken_for_an_old_one(diary: Path) -> None:
    sent = send("once", [str(diary)])
    row = parked(sent.id)
    copy = message_of(row)
    copy["args"] = [str(diary), "retry"]
    copy.apply_async(headers={PARKED: row.pk})  # the row is still parked when its retries arrive
    assert "after 4 retries" in str(sent.get(timeout=30, propagate=False))
    assert [entry["counted"] for entry in entries(diary)] == [1] * 6


@pytest.fixture
def nobody(redis_url: str) -> Iterator[Callable[[], int]]:
    """The number of messages in the queue that nobody consumes."""
    with connect(redis_url, 5.0) as client:
        yield lambda: int(client.llen("nobody"))
        client.delete("nobody")


def test_of_several_people_at_once_one_requeues(nobody: Callable[[], int]) -> None:
    row = lying()

    def act() -> bool:
        try:
            return requeue(Parked.objects.get(pk=row.pk), by="somebody", why="")
        finally:
            connections.close_all()

    assert sorted(together([act] * 6, threads=6)) == [False] * 5 + [True]
    assert nobody() == 1
    assert row.decisions.count() == 1


def test_what_is_not_parked_is_neither_requeued_nor_discarded(nobody: Callable[[], int]) -> None:
    row = lying()
    assert discard(row, by="somebody", why="a duplicate")
    assert not requeue(row, by="somebody", why="")
    assert not discard(row, by="somebody", why="")
    row.refresh_from_db()
    assert row.state == "discarded"
    assert list(row.decisions.values_list("decision", "why")) == [("discard", "a duplicate")]
    assert nobody() == 0


@contextmanager
def gone(redis_url: str) -> Iterator[None]:
    app = current_app._get_current_object()
    app.conf.broker_write_url = "redis+socket:///nobody/listens/here.sock"
    try:
        yield
    finally:
        app.conf.broker_write_url = app.conf.broker_url


@contextmanager
def full(redis_url: str) -> Iterator[None]:
    with connect(redis_url, 5.0) as client:
        client.config_set("maxmemory", "1")
        try:
            yield
        finally:
            client.config_set("maxmemory", "0")


@contextmanager
def frozen(redis_url: str) -> Iterator[None]:
    """A server that accepts connections and never answers."""
    with socket.socket(socket.AF_UNIX) as listener, pytest.MonkeyPatch.context() as patch:
        address = STATE / f"{uuid.uuid4().hex[:6]}.sock"
        listener.bind(str(address))
        listener.listen()
        patch.setattr("tasks_demo.quarantine.decisions.BROKER_SECONDS", 0.3)
        app = current_app._get_current_object()
        app.conf.broker_write_url = f"redis+socket://{address}"
        try:
            yield
        finally:
            app.conf.broker_write_url = app.conf.broker_url


@pytest.mark.parametrize("broker", [gone, full, frozen])
def test_a_broker_that_does_not_take_it_leaves_it_parked(
    redis_url: str, nobody: Callable[[], int], broker: Callable[[str], Any]
) -> None:
    row = lying()
    with broker(redis_url), pytest.raises(EnvironmentNotReady, match="It is still parked and nothing was changed"):
        requeue(row, by="somebody", why="")
    row.refresh_from_db()
    assert (row.state, row.decisions.count(), nobody()) == ("parked", 0, 0)
    assert requeue(row, by="somebody", why="")
    assert nobody() == 1


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"message": "{"}, "DecodeError|JSONDecodeError"),
        ({"content_type": "application/x-python-serialize"}, "ContentDisallowed"),
        (
            {"message": '{"task": "tasks_demo.charge_acks_late", "args": [], "options": {}, "kwargs": {}}'},
            "TypeError: .*customer",
        ),
    ],
)
def test_a_message_that_cannot_be_read_stays_parked(fields: dict[str, str], why: str) -> None:
    from tasks_demo.demo import tasks  # noqa: F401  (what is known here is checked against its signature)

    row = lying(**fields)
    with pytest.raises(RequeueFailed, match=f"({why}).*still parked"):
        requeue(row, by="somebody", why="")
    row.refresh_from_db()
    assert row.state == "parked"


# -- hostile task IDs ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("task_id", ["x" * 300, "tab\tand NUL \0"], ids=["long", "nul"])
def test_a_task_id_that_no_column_holds_is_counted_all_the_same(redis_url: str, diary: Path, task_id: str) -> None:
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
def test_a_forged_header_opens_no_way_round(diary: Path, forged: Any) -> None:
    sent = send("once", [str(diary)], headers={PARKED: forged})
    assert parked(sent.id).attempts == 1
    assert len(entries(diary)) == 1


# -- declarations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [AcksLate, DedupLock])
@pytest.mark.parametrize("limit", [0, -1, 2.0, "3", True])
def test_a_limit_that_is_no_number_of_attempts_is_refused(base: Any, limit: Any) -> None:
    with pytest.raises(ContradictoryDeclaration, match="Write a whole number from 1, or None"):
        base.task(name="never.declared", max_attempts=limit)
    with pytest.raises(ContradictoryDeclaration, match="Write a whole number from 1, or None"):
        type("Never", (base,), {"abstract": True, "max_attempts": limit})


def test_what_no_serialisation_can_carry_is_parked_as_text_and_cannot_be_requeued() -> None:
    """It must not return and kill again; people can still read it."""
    task: Any = CHARGES["acks_late"]
    task.push_request(id="odd", args=[{1, 2}], kwargs={}, delivery_info={})
    try:
        packed = _packed(task)
    finally:
        task.pop_request()
    assert packed["content_type"] == "text/plain"
    assert "{1, 2}" in packed["message"]
    with pytest.raises((RequeueFailed, EnvironmentNotReady)):
        requeue(lying(**packed), by="t", why="")


def test_a_limit_makes_no_sense_where_nothing_comes_back() -> None:
    with pytest.raises(ContradictoryDeclaration, match="does not come back"):
        AcksEarly.task(name="never.declared", max_attempts=3)


def test_the_default_is_a_setting(settings: Any) -> None:
    assert AcksLate.max_attempts == DedupLock.max_attempts == 5
    settings.TASKS_DEMO_MAX_ATTEMPTS = 2
    assert (AcksLate.max_attempts, AcksEarly.max_attempts) == (2, None)


def test_the_tables_of_the_sql_are_the_models() -> None:
    assert (Attempt._meta.db_table, Parked._meta.db_table) == (
        "tasks_demo_records_attempt",
        "tasks_demo_records_parked",
    )
    assert connection.vendor in {"sqlite", "postgresql"}
