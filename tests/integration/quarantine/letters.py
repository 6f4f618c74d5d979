"""Dead letters that no worker has made, for tests of screens and commands: stored as the transport stores them."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tasks_demo.transport.dead_letters import letter
from tasks_demo.transport.keys import Keys
from tasks_demo.transport.messages import Item

#: No worker consumes it.
QUEUE = "nobody"
GARBAGE = b"<b>\0\xff\x1b[31m"


@pytest.fixture
def broker_client(redis_url: str) -> Iterator[Any]:
    """A client of the broker's Redis, which is empty before and afterwards."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
        yield client
        client.flushdb()


def message(task_id: str = "", *, task: str = "poison.acks_late", queue: str = QUEUE, **kwargs: Any) -> bytes:
    """A message of Celery, as kombu writes it to Redis, whose workers died 19 times."""
    body = base64.b64encode(json.dumps([["one"], kwargs, {}]).encode()).decode()
    return json.dumps(
        {
            "body": body,
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"id": task_id or str(uuid.uuid4()), "task": task, "x-delivery-count": 19, "redelivered": True},
            "properties": {
                "body_encoding": "base64",
                "delivery_info": {"exchange": "", "routing_key": queue},
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    ).encode()


def dead(client: Any, raw: bytes, *, queue: str = QUEUE, at: float = 0.0) -> str:
    """Make a dead letter of it; return its token."""
    token, keys, readable = f"claim!h:1:{uuid.uuid4().hex[:6]}:1:1", Keys(""), raw.startswith(b"{")
    reason = "its worker died 20 times, and delivery_limit is 20" if readable else "not a message: \x1b[31mJSON<i>"
    client.hset(keys.dead_letters, token, letter(Item(token, queue, raw), queue, reason, readable))
    client.zadd(keys.dead_letters_index, {token: at or time.time()})
    return token
