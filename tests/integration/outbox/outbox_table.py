"""Helpers for the outbox tests: its table with real commits, a relay to a given Redis, and the contents of that Redis."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from celery import current_app
from django.apps import apps
from django.db import connections, router

from tasks_demo.demo.tasks import CHARGES
from tasks_demo.leases.redis_client import connect
from tasks_demo.outbox.relay import Relay
from tasks_demo.records.models import Attempt, Claim, Fence, InboxEntry, OutboxMessage, Parked
from tests.support import databases_of_tests

JOB = {"customer": "c", "amount": 5}
charge = CHARGES["outbox"]


def relay_to(url: str, **options: Any) -> Relay:
    """A relay that publishes to this broker, whatever the settings say."""
    url = url.replace("unix://", "redis+socket://", 1)
    return Relay(
        connect=lambda transport: current_app.connection_for_write(url, transport_options=transport), **options
    )


@pytest.fixture
def table(ledger: None) -> Iterator[str]:
    """The alias of the outbox. Its table and those of the other patterns are empty before and after."""
    alias = router.db_for_write(OutboxMessage)
    _empty(alias)
    yield alias
    _empty(alias)
    connections[alias].close()


@pytest.fixture
def elsewhere(table: str) -> Iterator[str]:
    """Another alias with the patterns' tables, as for a task that declares ``using``."""
    alias, models = "bank", list(apps.get_app_config("tasks_demo_records").get_models())
    try:
        with connections[alias].schema_editor() as editor:
            for model in models:
                editor.create_model(model)
        yield alias
    finally:
        with connections[alias].schema_editor() as editor:
            for model in reversed(models):
                editor.delete_model(model)


def _empty(alias: str) -> None:
    # All the tables: any test may have left rows.
    for model in (OutboxMessage, Parked, Claim, InboxEntry, Attempt, Fence):
        model._default_manager.using(alias).all().delete()


def environment(redis_url: str, **more: str) -> dict[str, str]:
    """The environment of a process on the test databases and this Redis."""
    return {**databases_of_tests(), "REDIS_URL": redis_url, **more}


def messages(redis_url: str, queue: str = "celery") -> list[dict[str, Any]]:
    """The messages in the queue, oldest first; ``content`` is the decoded body."""
    with connect(redis_url, 5.0) as client:
        found = [json.loads(raw) for raw in reversed(client.lrange(queue, 0, -1))]
    for message in found:
        if "compression" not in message["headers"]:
            message["content"] = json.loads(base64.b64decode(message["body"]))
    return found


def copies(redis_url: str, queue: str = "celery") -> Counter[str]:
    """The number of messages in the queue for each task ID."""
    return Counter(message["headers"]["id"] for message in messages(redis_url, queue))


def row(task_id: str) -> OutboxMessage:
    """The message's current row."""
    return OutboxMessage.objects.get(task_id=task_id)


def count() -> int:
    return OutboxMessage.objects.count()
