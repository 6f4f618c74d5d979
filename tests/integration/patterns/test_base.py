"""The patterns on real workers: a healthy job, a double click, and failing infrastructure.

Over 300 lines: the same tests for every pattern, on one worker that starts once.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.models import Sum

from tasks_demo.core.conf import settings
from tasks_demo.core.digest import digest
from tasks_demo.demo.bank.client import BankClient
from tasks_demo.demo.ledger_books import Bank
from tasks_demo.demo.stack import EmbeddedBank, EmbeddedRedis
from tasks_demo.demo.tasks import CHARGES
from tasks_demo.leases.heartbeat import hold
from tasks_demo.leases.protocol import Claimed
from tasks_demo.leases.redis_client import connect
from tasks_demo.leases.redis_store import RedisLeaseStore
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.ledger.reading import copy
from tasks_demo.ledger.recorder import recorder
from tasks_demo.ledger.verify import differences
from tasks_demo.patterns.requeue import DEFERRALS
from tests.integration.servers.redis import full, read_only
from tests.support import STATE, Home, Worker, databases_of_tests, producer_on, until

pytestmark = pytest.mark.usefixtures("ledger")
#: Without the inbox job, which books in our own database: test_inbox.py.
CHARGING_AT_THE_BANK = [pattern for pattern, task in CHARGES.items() if task.books == "bank"]


@pytest.fixture(scope="module")
def worker(home: Home, redis_url: str, bank_url: str, django_db_setup: None) -> Iterator[Worker]:
    env = {
        **databases_of_tests(),
        "REDIS_URL": redis_url,
        "BANK_URL": bank_url,
        "TASKS_DEMO_LEASE_SECONDS": "10",
    }
    with Worker(home, STATE / "patterns-worker.log", env) as running:
        yield running


@pytest.fixture
def books(bank_url: str) -> Iterator[BankClient]:
    client = BankClient(bank_url)
    yield client
    client.close()


def key() -> str:
    return f"order-{uuid.uuid4()}"


def total(operation: str, column: str) -> int:
    return int(Tally.objects.filter(operation=operation).aggregate(sum=Sum(column))["sum"] or 0)


def has(task_id: str, *wanted: str, seconds: float = 30.0) -> None:
    def seen() -> bool:
        return set(wanted) <= set(Event.objects.filter(task_id=task_id).values_list("kind", flat=True))

    until(seen, f"{wanted} of {task_id}", seconds)


# -- healthy -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("pattern", CHARGING_AT_THE_BANK)
def test_healthy_job_is_run_once_and_charged_once(pattern: str, books: BankClient) -> None:
    operation = key()
    sent = CHARGES[pattern].apply_async(kwargs={"customer": "c", "amount": 5, "operation": operation})
    assert sent.get(timeout=30)["amount"] == 5
    points = ["published", "received", "started", "effect_begun", "effect_done", "returned", "acked"]
    if pattern == "dedup_lock":
        points += ["claimed", "completed"]
    has(sent.id, *points)
    (debit,) = books.debits(reference=operation)
    assert (debit.source, debit.amount) == (sent.id, 5)
    copy("bank", Bank(books))
    tally = Tally.objects.get(task_id=sent.id)
    counts = {name: getattr(tally, name) for name in ("publications", "deliveries", "executions", "effects", "ended")}
    assert counts == dict.fromkeys(counts, 1)
    assert (tally.verdict, tally.broken, tally.operation) == ("ok", False, operation)
    assert list(differences()) == []


@pytest.mark.usefixtures("worker")
def test_events_of_main_and_child_have_different_pids_and_one_worker() -> None:
    sent = CHARGES["acks_late"].apply_async(kwargs={"customer": "c", "amount": 1})
    has(sent.id, "received", "returned", "acked")
    seen = {event.kind: event for event in Event.objects.filter(task_id=sent.id)}
    assert seen["received"].pid == seen["acked"].pid != seen["started"].pid == seen["returned"].pid
    assert len({seen[kind].worker for kind in ("received", "started", "returned", "acked")}) == 1


# -- the same operation twice -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
def test_double_click_is_charged_once_and_the_second_caller_gets_the_stored_result(books: BankClient) -> None:
    operation = key()
    kwargs = {"customer": "c", "amount": 7, "operation": operation}
    first = CHARGES["dedup_lock"].apply_async(kwargs=kwargs)
    receipt = first.get(timeout=30)
    second = CHARGES["dedup_lock"].apply_async(kwargs=kwargs)
    assert second.get(timeout=30) == receipt
    has(second.id, "suppressed", "acked")
    assert [debit.source for debit in books.debits(reference=operation)] == [first.id]
    assert Tally.objects.get(task_id=second.id).executions == 0


@pytest.mark.usefixtures("worker")
def test_double_click_without_the_lock_is_charged_twice(books: BankClient) -> None:
    """A control for the test above: it can fail."""
    operation = key()
    kwargs = {"customer": "c", "amount": 7, "operation": operation}
    sent = [CHARGES["acks_late"].apply_async(kwargs=kwargs) for _ in range(2)]
    for job in sent:
        job.get(timeout=30)
    assert len(list(books.debits(reference=operation))) == 2


@pytest.mark.usefixtures("worker")
def test_copy_that_runs_at_the_same_time_is_deferred_and_never_dropped(books: BankClient) -> None:
    operation = key()
    kwargs = {"customer": "c", "amount": 7, "work_ms": 6000, "operation": operation}
    first = CHARGES["dedup_lock"].apply_async(kwargs=kwargs)
    has(first.id, "started")
    second = CHARGES["dedup_lock"].apply_async(kwargs=kwargs)
    assert first.get(timeout=30) == second.get(timeout=30)
    until(lambda: total(operation, "suppressed") == 1, "the suppressed copy")
    assert (total(operation, "executions"), total(operation, "deferred") >= 1) == (1, True)
    assert len(list(books.debits(reference=operation))) == 1
    why = Event.objects.filter(operation=operation, kind="deferred").first()
    assert why is not None
    assert why.detail["why"] == "held by another worker"


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("forged", ["abc", None, [1], -5, 10**400], ids=lambda forged: str(forged)[:5])
def test_forged_count_of_deferrals_does_not_make_a_deferred_copy_fail(
    redis_url: str, books: BankClient, forged: object
) -> None:
    operation = key()
    kwargs = {"customer": "c", "amount": 7, "operation": operation}
    store = RedisLeaseStore(connect(redis_url, 5.0), settings.KEY_PREFIX, 30.0, 3600.0)
    task = CHARGES["dedup_lock"]
    claimed = store.claim(operation, digest(task.name, [], kwargs))
    assert isinstance(claimed, Claimed)
    with hold(store, claimed, cap_seconds=60):
        sent = task.apply_async(kwargs=kwargs, headers={DEFERRALS: forged})
        has(sent.id, "deferred")
    assert store.release(claimed)
    assert sent.get(timeout=30)["amount"] == 7
    assert not Event.objects.filter(task_id=sent.id, kind="failed").exists()
    assert len(list(books.debits(reference=operation))) == 1


@pytest.mark.usefixtures("worker")
def test_key_with_other_arguments_fails_loudly(books: BankClient) -> None:
    operation = key()
    CHARGES["dedup_lock"].apply_async(kwargs={"customer": "c", "amount": 7, "operation": operation}).get(timeout=30)
    other = CHARGES["dedup_lock"].apply_async(kwargs={"customer": "c", "amount": 8, "operation": operation})
    failure = other.get(timeout=30, propagate=False)
    assert "already used by another task or with other arguments" in str(failure)
    has(other.id, "failed")
    assert "OperationMismatch" in Event.objects.get(task_id=other.id, kind="failed").detail["why"]
    assert [debit.amount for debit in books.debits(reference=operation)] == [7]


# -- failing infrastructure --------------------------------------------------------------------------------------------------


class Environment:
    """A worker with its own broker, lock store and bank, each of which a test may break."""

    def __init__(self, stack: ExitStack, home: Home, folder: Path) -> None:
        self.broker = stack.enter_context(EmbeddedRedis(folder / "b", folder / "b.sock"))
        self.locks = stack.enter_context(EmbeddedRedis(folder / "l", folder / "l.sock"))
        books = {"BANK_DATABASE_URL": f"sqlite:///{folder / 'books.sqlite3'}"}
        self.bank = stack.enter_context(EmbeddedBank(folder / "bank.log", env=books))
        env = {
            **databases_of_tests(),
            "REDIS_URL": self.broker.url,
            "BANK_URL": self.bank.url,
            "TASKS_DEMO_LEDGER_REQUIRED": "1",
            "TASKS_DEMO_REDIS_URL": self.locks.url,
            "TASKS_DEMO_LEASE_SECONDS": "10",
            "TASKS_DEMO_DEFER_MAX_SECONDS": "1",
            # A bank that is slow to restart has not answered, but may already have the request.
            "TASKS_DEMO_BANK_TIMEOUT_SECONDS": "60",
        }
        self.worker = stack.enter_context(Worker(home, folder / "worker.log", env))

    def send(self, pattern: str, **kwargs: Any) -> str:
        """Publish one charge; return its task ID, which is also its operation."""
        with producer_on(self.broker.url) as producer:
            job = {"customer": "c", "amount": 3, **kwargs}
            sent = CHARGES[pattern].apply_async(kwargs=job, producer=producer, ignore_result=True)
        return str(sent.id)

    def charges(self, task_id: str) -> int:
        client = BankClient(self.bank.url)
        try:
            return len(list(client.debits(reference=task_id)))
        finally:
            client.close()

    def idle(self) -> bool:
        """Whether nothing is queued or unacknowledged; one look, because a message moves between the two."""
        with connect(self.broker.url, 5.0) as client, client.pipeline() as pipe:
            pipe.llen("celery").hlen("unacked")
            return not any(pipe.execute())


@pytest.fixture(scope="module")
def environment(home: Home, django_db_setup: None) -> Iterator[Environment]:
    folder = STATE / "environment"
    folder.mkdir()
    with ExitStack() as stack:
        yield Environment(stack, home, folder)


@pytest.mark.parametrize("refusing", [read_only, full])
def test_lock_store_that_takes_no_writes_keeps_the_body_from_running_and_loses_nothing(
    environment: Environment, refusing: Callable[[Any], AbstractContextManager[None]]
) -> None:
    with connect(environment.locks.url, 5.0) as client, refusing(client):
        task_id = environment.send("dedup_lock")
        has(task_id, "deferred")
        assert environment.charges(task_id) == 0
        assert Tally.objects.get(task_id=task_id).executions == 0
    has(task_id, "completed", "returned", "acked")
    assert environment.charges(task_id) == 1
    assert Tally.objects.get(task_id=task_id).executions == 1
    until(environment.idle, "an empty broker")


def test_lock_store_that_is_gone_keeps_the_body_from_running_and_loses_nothing(environment: Environment) -> None:
    environment.locks.kill()
    try:
        task_id = environment.send("dedup_lock")
        has(task_id, "deferred")
        assert environment.charges(task_id) == 0
    finally:
        environment.locks.start()
    has(task_id, "completed", "returned", "acked")
    assert environment.charges(task_id) == 1


@pytest.mark.parametrize("pattern", ["acks_late", "dedup_lock"])
def test_late_pattern_retries_while_the_bank_is_down_and_charges_once(environment: Environment, pattern: str) -> None:
    environment.bank.kill()
    try:
        task_id = environment.send(pattern)
        has(task_id, "retried")
    finally:
        environment.bank.start()
    has(task_id, "effect_done", "returned")
    assert environment.charges(task_id) == 1
    assert not Event.objects.filter(task_id=task_id, kind="failed").exists()
    until(environment.idle, "an empty broker")


def test_acks_early_fails_visibly_while_the_bank_is_down(environment: Environment) -> None:
    environment.bank.kill()
    try:
        task_id = environment.send("acks_early")
        has(task_id, "failed", "acked")
    finally:
        environment.bank.start()
    assert "BankUnavailable" in Event.objects.get(task_id=task_id, kind="failed").detail["why"]
    until(environment.idle, "an empty broker")
    assert environment.charges(task_id) == 0
    assert Tally.objects.get(task_id=task_id).executions == 1


@pytest.mark.parametrize("pattern", CHARGING_AT_THE_BANK)
def test_pattern_that_needs_its_ledger_runs_no_body_without_it(environment: Environment, pattern: str) -> None:
    log = environment.worker.log
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE tasks_demo_event RENAME TO tasks_demo_event_away")
    try:
        before = log.read_text(errors="replace").count("received")
        with producer_on(environment.broker.url) as producer:
            # Not through apply_async, because this process's ledger is unavailable too.
            task_id = str(uuid.uuid4())
            headers = {"task": CHARGES[pattern].name, "id": task_id, "lang": "py"}
            body = [[], {"customer": "c", "amount": 3}, {}]
            producer.publish(body, routing_key="celery", serializer="json", headers=headers, correlation_id=task_id)
        # Received twice by the worker: it was requeued and redelivered.
        until(lambda: log.read_text(errors="replace").count("received") >= before + 2, "the second delivery")
        assert environment.charges(task_id) == 0
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE tasks_demo_event_away RENAME TO tasks_demo_event")
    has(task_id, "effect_done", "returned")
    assert environment.charges(task_id) == 1
    assert Tally.objects.get(task_id=task_id).executions == 1
    until(environment.idle, "an empty broker")
    assert environment.worker.alive()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TASKS_DEMO_LEASE_SECONDS", "soon"),
        ("TASKS_DEMO_REDIS_URL", "http://nowhere"),
        ("TASKS_DEMO_DEFER_MAX_SECONDS", "-1"),
    ],
)
def test_worker_with_unusable_settings_requeues_jobs_for_the_next_worker(
    home: Home, short: Path, bank_url: str, books: BankClient, name: str, value: str
) -> None:
    with EmbeddedRedis(short / "b", short / "b.sock") as broker:
        env = {**databases_of_tests(), "REDIS_URL": broker.url, "BANK_URL": bank_url}
        if name == "TASKS_DEMO_DEFER_MAX_SECONDS":
            env["TASKS_DEMO_REDIS_URL"] = "http://nowhere"  # the delay is read only when it is needed
        with Worker(home, short / "misled.log", {**env, name: value}) as misled, producer_on(broker.url) as producer:
            job = {"customer": "c", "amount": 3}
            sent = CHARGES["dedup_lock"].apply_async(kwargs=job, producer=producer, ignore_result=True)
            has(sent.id, "deferred")
            misled.stop(30)  # time to requeue the copy that it holds until the delay has passed
        assert not Event.objects.filter(task_id=sent.id, kind__in=["failed", "started"]).exists()
        with Worker(home, short / "sound.log", env | {"TASKS_DEMO_REDIS_URL": broker.url}):
            has(sent.id, "completed", "returned")
    assert len(list(books.debits(reference=sent.id))) == 1


def test_called_as_a_function_a_job_is_just_a_function(monkeypatch: pytest.MonkeyPatch, bank_url: str) -> None:
    from django.conf import settings

    monkeypatch.setattr(settings, "TASKS_DEMO_BANK_URL", bank_url)
    for task in CHARGES.values():
        assert task(customer="direct", amount=2)["amount"] == 2
    recorder.try_flush()
    # Of this process only: a worker of an earlier test may still be recording its last return.
    assert not Event.objects.filter(pid=os.getpid()).exists()
