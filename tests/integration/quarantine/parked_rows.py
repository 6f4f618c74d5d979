"""Parked messages that no worker has parked, for tests of screens and decisions."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import current_app

from tasks_demo.leases.redis_client import connect
from tasks_demo.records.models import Parked

#: No worker consumes it.
QUEUE = "nobody"


def lying(note: Any = None, **fields: Any) -> Parked:
    """A parked message whose copy goes to a queue without a consumer."""
    task_id = str(uuid.uuid4())
    options = {"task_id": task_id, "queue": QUEUE}
    copy = current_app.signature(
        "poison.acks_late", kwargs={"diary": "nowhere", "deed": "nothing", "note": note}, options=options
    )
    known = {
        "task_id": task_id, "operation": task_id, "task": "poison.acks_late", "pattern": "acks_late",
        "message": json.dumps(copy), "content_type": "application/json", "content_encoding": "utf-8", "attempts": 5,
        "history": [], "reason": "of this test", "parked_at": datetime.now(UTC), **fields,
    }  # fmt: skip
    return Parked.objects.create(**known)


def states() -> list[str]:
    return list(Parked.objects.order_by("id").values_list("state", flat=True))


@pytest.fixture
def queue(redis_url: str) -> Iterator[Callable[[], int]]:
    """The number of messages in the queue that nobody consumes."""
    with connect(redis_url, 5.0) as client:
        yield lambda: int(client.llen(QUEUE))
        client.delete(QUEUE)


@pytest.fixture
def no_broker() -> Iterator[None]:
    app = current_app._get_current_object()
    app.conf.broker_write_url = "redis+socket:///nobody/listens/here.sock"
    yield
    app.conf.broker_write_url = app.conf.broker_url
