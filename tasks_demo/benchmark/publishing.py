"""Publishes the benchmark's jobs: before the worker starts or while it runs, directly or through the outbox."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from celery import current_app
from django.db import connections, router, transaction

from tasks_demo import outbox
from tasks_demo.core import lifecycle
from tasks_demo.lab.processes.brokers import RedisLane
from tasks_demo.lab.processes.brokers.reliable import ReliableLane
from tasks_demo.ledger.recorder import recorder
from tasks_demo.outbox.relay import Relay
from tasks_demo.records.models import OutboxMessage

#: kombu's defaults: nothing is redelivered here, and more frequent sweeps would be counted as lease scripts.
NO_SWEEPS = {"visibility_timeout": 3600, "unacked_restore_interval": 10, "unacked_restore_throttle": 10}


class Publisher(StrEnum):
    """How and when jobs are published."""

    BEFORE = "all are in the broker before the worker starts"
    MEANWHILE = "they are published one by one while the worker runs"
    OUTBOX = "they are committed to the outbox before the worker starts, and its relay publishes them while it runs"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to run the same do-nothing tasks. ``lane``: on stock Redis, or on ``tasks_demo.transport``."""

    name: str
    task: Any
    ledger: bool = False
    conf: dict[str, Any] = field(default_factory=dict)
    ignore_result: bool = True
    publisher: Publisher = Publisher.BEFORE
    lane: type[RedisLane] = RedisLane


def before(arm: Arm, lane: RedisLane, count: int) -> None:
    """Publish the arm's jobs, or commit them to the outbox, if the arm does so before the worker starts."""
    if arm.publisher is Publisher.BEFORE:
        _publish(arm, lane, count)
    elif arm.publisher is Publisher.OUTBOX:
        with transaction.atomic(using=router.db_for_write(OutboxMessage)):
            for number in range(count):
                outbox.enqueue(arm.task, (number,), ignore_result=True)


@contextlib.contextmanager
def meanwhile(arm: Arm, lane: RedisLane, count: int) -> Iterator[Callable[[], bool]]:
    """Publish the arm's jobs while the worker runs, if it does so. Yields a function: will more jobs follow?"""
    if arm.publisher is Publisher.MEANWHILE:
        thread = threading.Thread(target=_publish, args=(arm, lane, count), name="publisher")
        thread.start()
        try:
            yield thread.is_alive
        finally:
            thread.join()
    elif arm.publisher is Publisher.OUTBOX:
        with relaying(lane):
            yield OutboxMessage.objects.filter(finished_at=None).exists
    else:
        yield lambda: False


@contextlib.contextmanager
def relaying(lane: RedisLane) -> Iterator[None]:
    """Run a relay in a thread of this process, which is otherwise nearly idle."""
    stop = threading.Event()
    thread = threading.Thread(target=_relay, args=(lane, stop), name="relay")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _relay(lane: RedisLane, stop: threading.Event) -> None:
    def connect(options: dict[str, Any]) -> Any:
        return current_app.connection_for_write(lane.broker_url, transport_options={**options, **transport(lane)})

    try:
        Relay(connect=connect).run(stop)
    finally:
        connections.close_all()


@contextlib.contextmanager
def producer(lane: RedisLane) -> Iterator[Any]:
    """Open a kombu producer for this lane."""
    with current_app.connection_for_write(lane.broker_url, transport_options=transport(lane)) as connection:
        yield connection.Producer()


def transport(lane: RedisLane) -> dict[str, Any]:
    """Return kombu's options for this lane."""
    sweeps = {} if isinstance(lane, ReliableLane) else NO_SWEEPS
    return {"global_keyprefix": lane.prefix, "client_name": lane.prefix, **sweeps}


def _publish(arm: Arm, lane: RedisLane, count: int) -> None:
    if arm.ledger:
        lifecycle.observe(recorder)
    try:
        with producer(lane) as sender:
            for number in range(count):
                arm.task.apply_async(
                    (number,), producer=sender, ignore_result=arm.ignore_result, retry=False, serializer="json"
                )
    finally:
        lifecycle.ignore(recorder)
