"""What people decide about parked messages: nothing is lost when it is requeued, whatever the broker does."""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from django.db import connections

from tasks_demo.core.exceptions import EnvironmentNotReady, RequeueFailed
from tasks_demo.leases.redis_client import connect
from tasks_demo.patterns.attempts import PARKED
from tasks_demo.patterns.parking import message_of
from tasks_demo.quarantine import discard, requeue
from tasks_demo.records.models import Parked
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
from tests.integration.servers import redis
from tests.support import STATE, together, until

__all__ = ["diary", "records", "worker"]

pytestmark = pytest.mark.usefixtures("records")


HOSTILE = [
    "NUL \0 and half a pair \ud800",
    b"\x00\xff",
    {"\0": ["\udfff", None, True, 2**80, 0.1, -0.0]},
    [datetime(2026, 1, 2, 3, 4, 5, 6, UTC), Decimal("0.10"), uuid.UUID(int=7)],
    {"__type__": 1, "\\u0000": "\\"},
]


@pytest.mark.usefixtures("worker")
def test_requeue_sends_what_was_parked(diary: Path) -> None:
    """Arguments that a jsonb column refuses, queue, priority, headers, and the continuation of the workflow."""
    sent = send(
        "once",
        [str(diary)],
        {"note": HOSTILE},
        queue="side",
        priority=3,
        headers={"trace": "abc"},
        link=current_app.signature("poison.linked", args=(str(diary),)),
        expires=3600,
    )
    row = parked(sent.id)
    has(sent.id, "acked")
    copy = message_of(row)
    assert (copy.args, copy.kwargs) == ([str(diary)], {"note": HOSTILE})
    assert copy.options["expires"] is None, "whoever sends it again wants it run"

    cure(diary)
    assert requeue(row, by="somebody", why="the disk is back")
    assert sent.get(timeout=30) == "cured"
    first, second, after = until(lambda: len(entries(diary)) == 3 and entries(diary), "what was linked")
    assert second["headers"] == {"trace": "abc", PARKED: row.pk}
    assert {**second, "headers": None} == {**first, "headers": None}
    assert (first["routing_key"], first["priority"], first["counted"]) == ("side", 3, 1)
    assert after == {"linked": "cured"}
    row.refresh_from_db()
    assert row.state == "requeued"
    assert list(row.decisions.values_list("decision", "by", "why")) == [("requeue", "somebody", "the disk is back")]
    assert seen(sent.id, "published") == 2


@pytest.mark.usefixtures("worker")
def test_requeue_of_poison_that_still_kills_parks_it_again(diary: Path) -> None:
    sent = send("once", [str(diary)])
    assert requeue(parked(sent.id), by="somebody", why="hope")
    until(lambda: Parked.objects.filter(task_id=sent.id).count() == 2, "the second parking")
    assert list(Parked.objects.order_by("id").values_list("state", flat=True)) == ["requeued", "parked"]
    assert len(entries(diary)) == 2


@pytest.mark.usefixtures("worker")
def test_requeue_whose_sender_died_before_the_mark_runs_and_is_parked_once_more(diary: Path) -> None:
    sent = send("once", [str(diary)])
    row = parked(sent.id)
    has(sent.id, "acked")
    message_of(row).apply_async(headers={PARKED: row.pk})  # without the mark
    until(lambda: Parked.objects.filter(task_id=sent.id).count() == 2, "the second parking")
    assert len(entries(diary)) == 2
    row.refresh_from_db()
    assert row.state == "requeued"


@pytest.mark.usefixtures("worker")
def test_requeue_of_a_copy_that_retries_is_not_taken_for_an_old_one(diary: Path) -> None:
    sent = send("once", [str(diary)])
    row = parked(sent.id)
    copy = message_of(row)
    copy["args"] = [str(diary), "retry"]
    copy.apply_async(headers={PARKED: row.pk})  # the row is still parked when its retries arrive
    assert "after 4 retries" in str(sent.get(timeout=30, propagate=False))
    assert [entry["counted"] for entry in entries(diary)] == [1] * 6


@pytest.fixture
def nobody(redis_url: str) -> Iterator[Callable[[], int]]:
    """The number of messages in the queue that nobody consumes."""
    with connect(redis_url, 5.0) as client:
        yield lambda: int(client.llen("nobody"))
        client.delete("nobody")


def test_requeue_by_several_people_at_once_sends_one_message(nobody: Callable[[], int]) -> None:
    row = lying()

    def act() -> bool:
        try:
            return requeue(Parked.objects.get(pk=row.pk), by="somebody", why="")
        finally:
            connections.close_all()

    assert sorted(together([act] * 6, threads=6)) == [False] * 5 + [True]
    assert nobody() == 1
    assert row.decisions.count() == 1


def test_decisions_on_what_is_not_parked_change_nothing(nobody: Callable[[], int]) -> None:
    row = lying()
    assert discard(row, by="somebody", why="a duplicate")
    assert not requeue(row, by="somebody", why="")
    assert not discard(row, by="somebody", why="")
    row.refresh_from_db()
    assert row.state == "discarded"
    assert list(row.decisions.values_list("decision", "why")) == [("discard", "a duplicate")]
    assert nobody() == 0


@contextmanager
def gone(redis_url: str) -> Iterator[None]:
    app = current_app._get_current_object()
    app.conf.broker_write_url = "redis+socket:///nobody/listens/here.sock"
    try:
        yield
    finally:
        app.conf.broker_write_url = app.conf.broker_url


@contextmanager
def full(redis_url: str) -> Iterator[None]:
    with connect(redis_url, 5.0) as client, redis.full(client):
        yield


@contextmanager
def frozen(redis_url: str) -> Iterator[None]:
    """A server that accepts connections and never answers."""
    with socket.socket(socket.AF_UNIX) as listener, pytest.MonkeyPatch.context() as patch:
        address = STATE / f"{uuid.uuid4().hex[:6]}.sock"
        listener.bind(str(address))
        listener.listen()
        patch.setattr("tasks_demo.quarantine.decisions.BROKER_SECONDS", 0.3)
        app = current_app._get_current_object()
        app.conf.broker_write_url = f"redis+socket://{address}"
        try:
            yield
        finally:
            app.conf.broker_write_url = app.conf.broker_url


@pytest.mark.parametrize("broker", [gone, full, frozen])
def test_requeue_on_a_broker_that_does_not_take_it_leaves_it_parked(
    redis_url: str, nobody: Callable[[], int], broker: Callable[[str], Any]
) -> None:
    row = lying()
    with broker(redis_url), pytest.raises(EnvironmentNotReady, match="It is still parked and nothing was changed"):
        requeue(row, by="somebody", why="")
    row.refresh_from_db()
    assert (row.state, row.decisions.count(), nobody()) == ("parked", 0, 0)
    assert requeue(row, by="somebody", why="")
    assert nobody() == 1


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_requeue_to_an_exchange_without_a_queue_leaves_it_parked(
    broker: str, redis_url: str, request: pytest.FixtureRequest
) -> None:
    app = current_app._get_current_object()
    with ExitStack() as stack:
        if broker == "rabbitmq":
            node = request.getfixturevalue("rabbitmq")
            stack.enter_context(node.without(app.conf.task_default_queue))
            app.conf.broker_write_url = node.url
        stack.callback(setattr, app.conf, "broker_write_url", app.conf.broker_url)
        refuses_to_requeue_what_no_queue_takes()


def refuses_to_requeue_what_no_queue_takes() -> None:
    route = {"exchange": "amq.direct", "routing_key": "nobody-binds-this"}
    row = lying(message=json.dumps(current_app.signature("poison.acks_late", args=["nowhere"], options=route)))
    with pytest.raises(RequeueFailed, match=r"no queue takes it .*still parked"):
        requeue(row, by="somebody", why="")
    row.refresh_from_db()
    assert (row.state, row.decisions.count()) == ("parked", 0)


@pytest.mark.usefixtures("redis_url")
@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"message": "{"}, "DecodeError|JSONDecodeError"),
        ({"content_type": "application/x-python-serialize"}, "ContentDisallowed"),
        (
            {"message": '{"task": "tasks_demo.charge_acks_late", "args": [], "options": {}, "kwargs": {}}'},
            "TypeError: .*customer",
        ),
    ],
)
def test_requeue_of_a_message_that_cannot_be_read_leaves_it_parked(fields: dict[str, str], why: str) -> None:
    from tasks_demo.demo import tasks  # noqa: F401  (what is known here is checked against its signature)

    row = lying(**fields)
    with pytest.raises(RequeueFailed, match=f"({why}).*still parked"):
        requeue(row, by="somebody", why="")
    row.refresh_from_db()
    assert row.state == "parked"
