"""Where the broker has a copy: by stock kombu and by the reliable transport, on one Redis."""

from __future__ import annotations

import atexit
import uuid
from typing import Any

import pytest
from celery import current_app

from tasks_demo.outbox.copy_search import queue_state, search_broker
from tasks_demo.outbox.evidence import Location
from tests.integration.quarantine.letters import dead, message

QUEUE = "copy-search"
WANTED = ("queued", "delivered", "dead", "gone")


@pytest.mark.parametrize(
    ("scheme", "delivered"), [("redis+socket://", Location.UNACKED), ("reliable+socket://", Location.KEPT)]
)
def test_search_broker_reports_what_a_consumer_holds_as_kept_on_the_reliable_transport_only(
    broker_client: Any, redis_url: str, scheme: str, delivered: Location
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
        found = search_broker(connection, QUEUE, queue_state(connection, QUEUE), list(ids.values()))
        got.ack()
        if owner := getattr(queue.channel, "owner", None):
            owner.leave()
            atexit.unregister(owner.leave)
        queue.close()
    assert found == {
        ids["queued"]: Location.QUEUED,
        ids["delivered"]: delivered,
        ids["dead"]: Location.KEPT,
        ids["gone"]: Location.ABSENT,
    }
