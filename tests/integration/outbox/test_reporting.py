"""What a real worker reports to the outbox about a job's begin and end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from celery import current_app
from celery.app.task import Context
from django.db import connections

from tasks_demo.demo.tasks import CHARGES
from tasks_demo.ledger.models import Event
from tasks_demo.outbox import completion, enqueue
from tasks_demo.outbox.relay import Relay
from tasks_demo.outbox.reporting import HEADER
from tasks_demo.records.models import OutboxMessage
from tests.integration.outbox.outbox_table import JOB, charge, environment, row
from tests.support import STATE, Home, Worker, queued, until

pytestmark = pytest.mark.usefixtures("table")


class OutboxWorker(Worker):
    """A worker that also has the jobs of ``outbox_tasks``."""

    options = ("--include", "tests.integration.outbox.outbox_tasks")


@pytest.fixture(scope="module")
def worker(home: Home, redis_url: str, django_db_setup: None) -> Iterator[Worker]:
    """A worker on the broker of the settings; its bank is not running."""
    env = environment(redis_url, BANK_URL="http://127.0.0.1:1", TASKS_DEMO_OUTBOX_LEASE_SECONDS="50")
    with OutboxWorker(home, STATE / "outbox-worker.log", env) as running:
        yield running


def publish(task: Any, *args: Any, **options: Any) -> str:
    task_id = enqueue(task, args, external=True, **options)
    assert Relay().run_once().published == 1
    return task_id


def ended(task_id: str) -> OutboxMessage:
    until(lambda: row(task_id).finished_at, "the end of the message")
    return row(task_id)


def test_reporting_marks_any_task_that_succeeds_begun_and_ended(worker: Worker) -> None:
    found = ended(publish("celery.accumulate", 1, 2))
    assert found.published_at is not None
    assert found.started_at is not None
    assert found.finished_at is not None
    assert found.created_at <= found.started_at <= found.finished_at
    # Begun: the next check is due after the maximum time to wait for an end, counted from the start.
    assert found.due_at - found.started_at == timedelta(seconds=50)


def test_reporting_takes_a_failure_for_an_end(worker: Worker) -> None:
    found = ended(publish(CHARGES["acks_early"], kwargs=JOB))
    assert (found.publications, found.error) == (1, "")
    assert current_app.AsyncResult(found.task_id).get(timeout=10, propagate=False) is not None


@pytest.mark.parametrize("task", ["ignored", "replaced"])
def test_reporting_takes_an_ignored_job_for_an_end(worker: Worker, task: str) -> None:
    found = ended(publish(f"outbox_tasks.{task}"))
    assert (found.publications, found.error) == (1, "")


def test_reporting_does_not_take_a_deferral_for_an_end(worker: Worker) -> None:
    found = ended(publish("outbox_tasks.later"))
    starts = Event.objects.filter(task_id=found.task_id, kind="started").order_by("id").values_list("at", flat=True)
    until(lambda: starts.count() >= 2, "both starts in the ledger, which waits for no end")
    first, second = starts
    assert found.finished_at is not None
    assert first < second < found.finished_at


# Celery counts the hard limit from the soft one on. Long enough for a starved process to begin.
LIMITS = {"soft_time_limit": 3, "time_limit": 3.2}


@pytest.mark.parametrize("task", ["early", "late"])
def test_reporting_takes_a_hard_time_limit_for_an_end(worker: Worker, task: str) -> None:
    found = ended(publish(f"outbox_tasks.{task}", **LIMITS))
    assert (found.publications, found.error) == (1, "")
    assert found.started_at is not None
    until(lambda: current_app.AsyncResult(found.task_id).state == "FAILURE", "the result")


def test_reporting_does_not_record_an_end_for_a_hard_time_limit_that_requeues(worker: Worker) -> None:
    task_id = publish("outbox_tasks.back", **LIMITS)
    until(lambda: row(task_id).started_at, "the first start")
    first = row(task_id).started_at
    # Started again: Celery has sent its last signal of the first start, and the message was redelivered.
    until(lambda: row(task_id).started_at != first, "the start of what came back")
    assert row(task_id).finished_at is None
    current_app.control.revoke(task_id, terminate=True, signal="SIGKILL", reply=True, limit=1, timeout=30)
    assert ended(task_id).error == "revoked"


def test_reporting_that_hangs_does_not_delay_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened, marked = threading.Event(), threading.Event()

    def hanging(*_: Any, **values: Any) -> None:
        opened.wait(60)
        marked.set()

    monkeypatch.setattr(completion, "_report", hanging)
    monkeypatch.setattr(completion, "MAIN_SECONDS", 0.1)
    completion._revoked(request=Context(id="job-17", headers={HEADER: "nowhere"}))
    assert not marked.is_set(), "it has waited for the mark"
    assert "has not answered for 0.1 s: job-17 may be published again" in caplog.text
    opened.set()
    assert marked.wait(30)


def test_reporting_takes_no_retry_for_an_end_and_its_copy_still_reports(worker: Worker) -> None:
    task_id = publish(charge, kwargs=JOB)
    until(lambda: row(task_id).started_at, "the first start")
    first = row(task_id).started_at
    until(lambda: row(task_id).started_at != first, "the start of the copy that the retry has published")
    assert row(task_id).finished_at is None
    current_app.control.revoke(task_id, reply=True, limit=1, timeout=30)
    assert ended(task_id).error == "revoked"


def test_reporting_takes_a_revocation_for_an_end(worker: Worker) -> None:
    task_id = enqueue("celery.accumulate", [1])
    assert current_app.control.revoke(task_id, reply=True, limit=1, timeout=30), "published before it was revoked"
    Relay().run_once()
    found = ended(task_id)
    assert (found.error, found.started_at) == ("revoked", None)


def test_reporting_marks_nothing_for_a_message_that_came_another_way(worker: Worker) -> None:
    task_id = enqueue("celery.accumulate", [1], countdown=3600)
    assert current_app.send_task("celery.accumulate", [1], task_id=task_id).get(timeout=30) == [1]
    assert (row(task_id).started_at, row(task_id).finished_at) == (None, None)


def test_reporting_names_an_outbox_that_the_worker_does_not_know(worker: Worker) -> None:
    sent = current_app.send_task("celery.accumulate", [2], headers={HEADER: "nowhere"})
    assert sent.get(timeout=30) == [2]
    until(lambda: f"{sent.id} could not be marked" in worker.log.read_text(), "the warning")


def test_reporting_that_fails_changes_nothing_and_the_message_comes_again(
    worker: Worker, table: str, settings: Any
) -> None:
    settings.TASKS_DEMO_OUTBOX_UNSTARTED_SECONDS = 1.0
    task_id = enqueue("celery.accumulate", [3])
    rows, _ = Relay()._table.take(1)
    with connections[table].cursor() as cursor:
        cursor.execute("ALTER TABLE tasks_demo_records_outboxmessage RENAME TO outbox_away")
        try:
            relay = Relay()
            assert list(relay._publisher.publish(rows).confirmed) == [rows[0].id]
            assert current_app.AsyncResult(task_id).get(timeout=30) == [3]
            until(lambda: worker.log.read_text().count(f"{task_id} could not be marked") == 2, "both warnings")
        finally:
            cursor.execute("ALTER TABLE outbox_away RENAME TO tasks_demo_records_outboxmessage")
    assert row(task_id).started_at is None
    until(lambda: Relay().run_once().published, "its publication")
    assert ended(task_id).error == ""
    assert "The job runs anyway, and may be published again" in worker.log.read_text()


def test_reporting_leaves_the_broker_empty(worker: Worker, redis_url: str) -> None:
    until(lambda: queued(redis_url) == 0, "an empty queue")
    assert worker.alive()
