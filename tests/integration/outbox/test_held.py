"""Where the broker has a copy: by stock kombu and by our own transport, on one Redis."""

from __future__ import annotations

import atexit
import uuid
from typing import Any

import pytest
from celery import current_app

from tasks_demo.outbox.evidence import Held
from tasks_demo.outbox.held import by_broker, queue_state
from tests.integration.quarantine.letters import dead, message

QUEUE = "held"
WANTED = ("queued", "delivered", "dead", "gone")


@pytest.mark.parametrize(
    ("scheme", "delivered"), [("redis+socket://", Held.UNACKED), ("reliable+socket://", Held.KEPT)]
)
def test_held_by_a_consumer_comes_back_by_itself_on_our_own_transport_only(
    broker_client: Any, redis_url: str, scheme: str, delivered: Held
) -> None:
    ids = {name: f"{name}-{uuid.uuid4()}" for name in WANTED}
    dead(broker_client, message(ids["dead"], queue=QUEUE), queue=QUEUE)
    address = redis_url.replace("unix://", scheme, 1)
    with current_app.connection_for_write(address) as connection:
        queue = connection.SimpleQueue(QUEUE, queue_opts={"durable": True})
        for name in ("delivered", "queued"):
            queue.put("body", headers={"id": ids[name]})
        # Whoever has been handed a message and has not acknowledged it.
        got = queue.get(timeout=10)
        assert got.headers["id"] == ids["delivered"]
        found = by_broker(connection, QUEUE, queue_state(connection, QUEUE), list(ids.values()))
        got.ack()
        if member := getattr(queue.channel, "member", None):
            member.leave()
            atexit.unregister(member.leave)
        queue.close()
    assert found == {
        ids["queued"]: Held.QUEUED,
        ids["delivered"]: delivered,
        ids["dead"]: Held.KEPT,
        ids["gone"]: Held.ABSENT,
    }
