"""What happens between a relay's look at the due rows and its lease on them, on a real database."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connections

from tasks_demo.core.clock import Now
from tasks_demo.outbox import enqueue
from tasks_demo.outbox.table import Table
from tasks_demo.records.models import OutboxMessage
from tests.support import until

JOB = "celery.accumulate"


def taken(alias: str, most: int, meanwhile: Callable[[], Any]) -> list[OutboxMessage]:
    """Take rows; run ``meanwhile`` on another connection after they were looked at and before they are locked."""
    happened: list[bool] = []

    def elsewhere() -> None:
        try:
            meanwhile()
        finally:
            connections.close_all()

    def wrapper(execute: Any, sql: str, *rest: Any) -> Any:
        if not happened and (sql.startswith("BEGIN") or "FOR UPDATE" in sql):
            happened.append(True)
            with ThreadPoolExecutor(1) as other:
                other.submit(elsewhere).result()
        return execute(sql, *rest)

    with connections[alias].execute_wrapper(wrapper):
        rows, _ = Table(alias).take(most)
    assert happened, "the relay took no lock"
    return rows


@pytest.mark.django_db(transaction=True, databases="__all__")
def test_take_leaves_the_rows_that_another_relay_took_after_it_had_looked(table: str) -> None:
    first, second = enqueue(JOB, [1]), enqueue(JOB, [2])
    assert [row.task_id for row in taken(table, 2, lambda: Table(table).take(1))] == [second]
    assert [taken_up(each) for each in (first, second)] == [True, True]


@pytest.mark.django_db(transaction=True, databases="__all__")
def test_take_leaves_a_row_that_ended_after_it_had_looked(table: str) -> None:
    task_id = enqueue(JOB, [1])
    ended = OutboxMessage.objects.using(table).filter(task_id=task_id)
    assert taken(table, 2, lambda: ended.update(finished_at=Now())) == []


@pytest.mark.django_db(transaction=True, databases="__all__")
def test_take_begins_the_lease_when_it_has_the_lock(table: str, settings: Any) -> None:
    """A relay may wait for SQLite's write lock for longer than its lease."""
    settings.TASKS_DEMO_OUTBOX_UNSTARTED_SECONDS = 1.0
    enqueue(JOB, [1])
    clock: list[datetime] = []

    def passes() -> bool:
        clock.append(OutboxMessage.objects.using(table).annotate(at=Now()).values_list("at", flat=True)[0])
        return clock[-1] - clock[0] > timedelta(milliseconds=50)

    (row,) = taken(table, 1, lambda: until(passes, "the database's clock goes on"))
    assert row.due_at >= clock[-1] + timedelta(seconds=1)


def taken_up(task_id: str) -> bool:
    return OutboxMessage.objects.filter(task_id=task_id, due_at__gt=Now()).exists()
