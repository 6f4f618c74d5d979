"""Publish the demo's jobs one by one, each confirmed before the next."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from celery import current_app
from celery.exceptions import OperationalError as BrokerError
from django.db import DatabaseError
from redis.exceptions import RedisError

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.core.wording import counted, first_line
from tasks_demo.demo.shop.orders import place_order
from tasks_demo.demo.tasks import CHARGES
from tasks_demo.leases.keys import validate_operation


@dataclass(frozen=True, slots=True)
class Published:
    """A job that is in the broker or in the outbox."""

    task_id: str
    operation: str
    pattern: str


def publish(
    pattern: str, *, count: int, amount: int, work_ms: int, operation: str | None = None
) -> Iterator[Published]:
    """Publish ``count`` charges of ``amount`` cents, and yield each when the broker has confirmed it.

    Jobs of the pattern ``outbox`` are yielded when they are committed; a relay publishes them. With ``operation`` all jobs have
    the same operation key, as after a double click; otherwise the key of each is its task ID. Raises InvalidOperationKey before
    anything is sent, and EnvironmentNotReady if the broker does not accept a job; the jobs yielded before are in the queue.
    """
    if operation is not None:
        validate_operation(operation)
    task = CHARGES[pattern]
    if pattern != "outbox":
        _check_broker(count)
    for number in range(count):
        kwargs = {"customer": f"customer-{number % 10}" if operation is None else "customer-0", "amount": amount}
        if work_ms:
            kwargs["work_ms"] = work_ms
        if operation is not None:
            kwargs["operation"] = operation
        task_id = _into_outbox(task, kwargs, number) if pattern == "outbox" else _to_broker(task, kwargs, number, count)
        yield Published(task_id, operation or task_id, pattern)


def _to_broker(task: Any, kwargs: dict[str, Any], number: int, count: int) -> str:
    try:
        return str(task.apply_async(kwargs=kwargs).id)
    except (BrokerError, RedisError, OSError, RuntimeError) as error:  # RuntimeError: the result backend gave up
        raise _refused(error, number, count) from error


def _into_outbox(task: Any, kwargs: dict[str, Any], number: int) -> str:
    task_id = str(uuid.uuid4())
    try:
        place_order(task, kwargs, task_id=task_id)
    except DatabaseError as error:
        raise EnvironmentNotReady(
            f"Order {number + 1} was not committed: {first_line(error)}. "
            f"In the outbox: {counted(number, 'order')}. "
            "Is the shop's database running and migrated (`manage.py migrate --database shop`)?"
        ) from error
    return task_id


def _check_broker(count: int) -> None:
    # Checked first, because Celery retries for a long time if the result backend is down.
    try:
        with current_app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
    except (BrokerError, RedisError, OSError) as error:
        raise _refused(error, 0, count) from error


def _refused(error: Exception, number: int, count: int) -> EnvironmentNotReady:
    reason = error.__cause__ or error
    return EnvironmentNotReady(
        f"The broker did not accept job {number + 1} of {count}: {type(reason).__name__}: {str(reason).rstrip('.')}. "
        f"In the queue: {counted(number, 'job')}. Start the broker (`make up` starts a Redis), or set REDIS_URL, "
        "and BROKER_URL if it is set, to servers that accept writes."
    )
