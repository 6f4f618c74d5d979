"""A real worker and messages of every kind: it records those it runs and those it cannot run, and survives them all."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

import pytest
from celery import current_app

from tasks_demo.demo.bank.client import BankClient
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.ledger.verify import differences
from tests.support import STATE, Home, Worker, database_url_of_tests, producer_on, until

pytestmark = pytest.mark.usefixtures("ledger")


@pytest.fixture(scope="module")
def worker(home: Home, redis_url: str, bank_url: str, django_db_setup: None) -> Iterator[Worker]:
    env = {
        "DATABASE_URL": database_url_of_tests(),
        "REDIS_URL": redis_url,
        "BANK_URL": bank_url,
        "TASKS_DEMO_LEASE_SECONDS": "2",
    }
    with Worker(home, STATE / "signals-worker.log", env) as running:
        yield running


def kinds(task_id: str) -> list[str]:
    """The kinds of a task's events; the order across processes is not fixed."""
    return sorted(Event.objects.filter(task_id=task_id).values_list("kind", flat=True))


def has(task_id: str, *wanted: str) -> None:
    until(lambda: set(wanted) <= set(kinds(task_id)), f"{wanted} of {task_id}")


def still_works(worker: Worker) -> None:
    """A charge published now runs: the worker survived the earlier messages."""
    sent = current_app.send_task("tasks_demo.charge_acks_late", kwargs={"customer": "c", "amount": 1})
    has(sent.id, "started", "returned", "acked")
    assert worker.alive()


def test_job_without_any_pattern_of_ours_is_recorded_from_celery_s_signals(worker: Worker) -> None:
    sent = current_app.send_task("celery.accumulate", args=[1, 2])
    has(sent.id, "published", "received", "started", "returned")
    assert sent.get(timeout=30) == [1, 2]
    tally = Tally.objects.get(task_id=sent.id)
    assert (tally.publications, tally.deliveries, tally.executions, tally.pattern) == (1, 1, 1, "")
    assert (tally.task, tally.outcome, tally.verdict) == ("celery.accumulate", "succeeded", "ok")
    still_works(worker)


@pytest.mark.parametrize("pattern", ["acks_early", "acks_late", "dedup_lock"])
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ([], {}),
        ([], {"nonsense": 1}),
        (["c", 1, 0, None, "one too many"], {}),
        ([], {"customer": "c", "amount": 1, "operation": "two\nlines"}),
        ([], {"customer": "c", "amount": 1, "operation": 17}),
        ([], {"customer": "c", "amount": "a lot"}),
    ],
    ids=str,
)
def test_wrong_arguments_from_a_hostile_publisher_are_recorded_as_failed(
    worker: Worker, bank_url: str, pattern: str, args: list[object], kwargs: dict[str, object]
) -> None:
    sent = current_app.send_task(f"tasks_demo.charge_{pattern}", args=args, kwargs=kwargs)
    has(sent.id, "failed")
    why = Event.objects.get(task_id=sent.id, kind="failed").detail["why"]
    assert "Error" in why or "Key" in why or "Refused" in why, why
    tally = Tally.objects.get(task_id=sent.id)
    assert (tally.pattern, tally.failed, tally.ended, tally.effects) == (pattern, 1, 1, 0)
    with_error = sent.get(timeout=10, propagate=False)
    assert isinstance(with_error, Exception)
    client = BankClient(bank_url)
    assert list(client.debits(reference=sent.id)) == []
    client.close()


def test_worker_is_alive_after_all_that(worker: Worker) -> None:
    for kwargs in ({"nonsense": 1}, {}):
        has(current_app.send_task("tasks_demo.charge_dedup_lock", kwargs=kwargs).id, "failed")
    still_works(worker)
    assert list(differences()) == []


def test_task_nobody_knows_is_kept_as_text_and_the_worker_goes_on(worker: Worker) -> None:
    secret = uuid.uuid4().hex
    sent = current_app.send_task("nobody.knows.this", args=["x" * 5000, secret])
    has(sent.id, "rejected")
    event = Event.objects.get(task_id=sent.id, kind="rejected")
    assert "nobody.knows.this" in event.detail["why"]
    assert secret in event.detail["body"], "it must be possible to publish it again by hand"
    assert event.detail["headers"]["id"] == sent.id
    assert json.loads(event.detail["body"])[0] == ["x" * 5000, secret], "all of it"
    assert Tally.objects.get(task_id=sent.id).ended == 1
    still_works(worker)


@pytest.mark.parametrize(
    "body", [{"no": "task"}, [1, 2], "text", 17, None, {"nul": "\0 \ud800 end"}], ids=lambda body: json.dumps(body)
)
def test_message_that_is_not_a_task_is_kept_as_text(worker: Worker, redis_url: str, body: object) -> None:
    mark = uuid.uuid4().hex
    with producer_on(redis_url) as producer:
        producer.publish({"mark": mark, "body": body}, routing_key="celery", serializer="json")
        producer.publish(
            json.dumps(body), routing_key="celery", content_type="application/json", content_encoding="utf-8"
        )
    until(lambda: Event.objects.filter(kind="rejected").count() >= 2, "two rejected events")
    bodies = [event.detail["body"] for event in Event.objects.filter(kind="rejected")]
    assert any(mark in text for text in bodies)
    assert all("not a task message" in e.detail["why"] for e in Event.objects.filter(kind="rejected"))
    still_works(worker)


@pytest.mark.parametrize("task_id", ["half \ud800 pair", "nul \0 end", "x" * 400, "{}*:", "../../etc"], ids=ascii)
def test_signals_hostile_task_id_does_not_keep_others_out_of_the_ledger(
    worker: Worker, redis_url: str, task_id: str
) -> None:
    headers = {"task": "tasks_demo.charge_acks_late", "id": task_id, "lang": "py", "argsrepr": "", "kwargsrepr": ""}
    operation = f"op-{uuid.uuid4()}"
    body = [[], {"customer": "c", "amount": 1, "operation": operation}, {}]
    with producer_on(redis_url) as producer:
        producer.publish(body, routing_key="celery", serializer="json", headers=headers, correlation_id=task_id)
    still_works(worker)
    hostile = Event.objects.filter(kind="received", operation=operation)
    until(hostile.exists, "the hostile delivery in the ledger")
    assert list(differences()) == []
