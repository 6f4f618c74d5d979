"""Parking: once, with the lease released; no other copy runs."""

from __future__ import annotations

import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.app.task import Context
from django.db import connections, router, transaction

from tasks_demo.core.conf import settings as ours
from tasks_demo.core.exceptions import EnvironmentNotReady, RequeueFailed
from tasks_demo.demo.tasks import CHARGES
from tasks_demo.leases.keys import record_key
from tasks_demo.leases.redis_client import connect
from tasks_demo.patterns.attempts import _admit
from tasks_demo.patterns.parking import _packed, message_of
from tasks_demo.quarantine import requeue
from tasks_demo.records.models import Attempt, Parked
from tests.integration.quarantine.parked_rows import lying
from tests.integration.quarantine.poison_worker import (
    cure,
    diary,
    entries,
    has,
    parked,
    records,
    seen,
    send,
    worker,
)
from tests.support import STATE, Worker, until

__all__ = ["diary", "records", "worker"]

pytestmark = pytest.mark.usefixtures("records")


def test_parking_once_when_killed_between_parking_and_acknowledging(worker: Worker, diary: Path) -> None:
    flag = STATE / "die-after-parking"
    task_id = str(uuid.uuid4())
    flag.write_text(task_id)
    sent = send("once", [str(diary)], task_id=task_id)
    row = parked(sent.id)
    until(lambda: not flag.exists(), "the death after parking")
    has(sent.id, "acked")
    assert list(Parked.objects.values_list("pk", flat=True)) == [row.pk]
    assert len(entries(diary)) == 1
    until(lambda: seen(sent.id, "quarantined") == 2, "both points in the ledger")
    assert seen(sent.id, "started") == 1
    assert worker.alive()


@pytest.mark.usefixtures("worker")
def test_parking_releases_the_lease(redis_url: str, diary: Path) -> None:
    sent = send("dedup_lock", [str(diary)])
    row = parked(sent.id)
    with connect(redis_url, 5.0) as client:
        key = record_key(ours.KEY_PREFIX, sent.id)
        until(lambda: client.hget(key, "state") == b"released", "the lease given back")
    cure(diary)
    assert requeue(row, by="somebody", why="")
    assert sent.get(timeout=30) == "cured"


@pytest.mark.usefixtures("worker")
def test_parking_suppresses_any_other_copy(diary: Path) -> None:
    sent = send("once", [str(diary)])
    row = parked(sent.id)
    message_of(row).apply_async()
    until(lambda: seen(sent.id, "quarantined") == 2, "the refusal of the copy")
    assert (len(entries(diary)), Parked.objects.count()) == (1, 1)


def test_parking_suppresses_a_copy_that_comes_meanwhile() -> None:
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


def test_parking_keeps_as_text_what_no_serialisation_can_carry() -> None:
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
