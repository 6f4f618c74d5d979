"""enqueue: one row and one message with the business data, or neither."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from celery import current_app
from django.db import transaction
from django.utils import timezone

from tasks_demo.core.exceptions import OutboxRefused
from tasks_demo.demo.shop.models import Order
from tasks_demo.leases.redis_client import connect
from tasks_demo.outbox import enqueue
from tasks_demo.outbox.relay import Relay
from tasks_demo.outbox.reporting import HEADER
from tests.integration.outbox.outbox_table import JOB, charge, count, messages, relay_to, row
from tests.integration.servers.redis import RedisServer
from tests.support import until

pytestmark = pytest.mark.usefixtures("table")


def test_enqueue_with_a_commit_is_one_row_and_one_message_under_the_same_id(table: str, broker: RedisServer) -> None:
    with transaction.atomic(using=table):
        task_id = enqueue(charge, kwargs=JOB)
        Order.objects.using(table).create(task_id=task_id, customer="c", amount=5)
    relay = relay_to(broker.url)
    assert (relay.run_once().published, relay.run_once().taken) == (1, 0)
    (message,) = messages(broker.url)
    assert (message["headers"]["id"], message["headers"]["task"]) == (task_id, "tasks_demo.charge_outbox")
    assert message["content"][:2] == [[], JOB]
    found = row(task_id)
    assert (found.publications, found.failures, found.error) == (1, 0, "")
    assert found.created_at <= (found.published_at or found.created_at) < found.due_at


def test_enqueue_is_rolled_back_with_its_transaction(table: str, broker: RedisServer) -> None:
    def order() -> None:
        with transaction.atomic(using=table):
            enqueue(charge, kwargs=JOB)
            assert count() == 1
            raise RuntimeError("the customer changed her mind")

    with pytest.raises(RuntimeError):
        order()
    assert count() == 0
    assert relay_to(broker.url).run_once().taken == 0
    assert messages(broker.url) == []


def test_enqueue_outside_a_transaction_is_durable_by_itself() -> None:
    assert row(enqueue("tasks_demo.charge_outbox", kwargs=JOB)).call(current_app)[1] == JOB


def test_relay_inside_a_transaction_refuses_to_publish_what_may_be_rolled_back(table: str, broker: RedisServer) -> None:
    with transaction.atomic(using=table):
        enqueue(charge, kwargs=JOB)
        with pytest.raises(RuntimeError, match="durable"):
            relay_to(broker.url).run_once()
    assert messages(broker.url) == []


def test_enqueue_in_a_transaction_on_another_database_only_is_refused(table: str) -> None:
    other = "bank"
    with transaction.atomic(using=other):
        with pytest.raises(OutboxRefused, match=f"open on '{other}', but the outbox is in '{table}'.*independent=True"):
            enqueue(charge, kwargs=JOB)
        assert count() == 0
        enqueue(charge, kwargs=JOB, independent=True)
        with transaction.atomic(using=table):
            enqueue(charge, kwargs=JOB)
    assert count() == 2


def test_enqueue_takes_a_task_id_once_and_the_transaction_lives_on(table: str) -> None:
    with transaction.atomic(using=table):
        assert enqueue(charge, kwargs=JOB, task_id="order-17") == "order-17"
        with pytest.raises(OutboxRefused, match=r"order-17 is in the outbox already.*the first message stands"):
            enqueue(charge, kwargs={**JOB, "amount": 6}, task_id="order-17")
        enqueue(charge, kwargs=JOB)
    assert count() == 2
    assert row("order-17").call(current_app)[1] == JOB


def test_enqueue_options_reach_the_broker_as_given_to_apply_async(broker: RedisServer) -> None:
    when = datetime.now(UTC) + timedelta(hours=1)
    task_id = enqueue(
        "somewhere.else", (1, [None, True, 1.5, "☃"]), {"a": {"b": ()}},
        queue="side", priority=6, headers={"mine": 1}, expires=when, ignore_result=True,
        time_limit=7, soft_time_limit=3.5, shadow="name", compression="zlib", external=True,
    )  # fmt: skip
    assert relay_to(broker.url).run_once().published == 1
    with connect(broker.url, 5.0) as client:
        (key,) = client.keys("side*")
    assert key.endswith(b"6"), "kombu keeps a list per priority"
    assert row(task_id).queue == "side at priority 6"
    (message,) = messages(broker.url, key.decode())
    headers = message["headers"]
    wanted = {
        "id": task_id, "task": "somewhere.else", "mine": 1, HEADER: Relay().using, "ignore_result": True,
        "timelimit": [7, 3.5], "shadow": "name", "compression": "application/x-gzip", "eta": None, "retries": 0,
    }  # fmt: skip
    assert {name: headers[name] for name in wanted} == wanted
    assert datetime.fromisoformat(headers["expires"]) == when


def test_enqueue_with_a_countdown_waits_in_the_outbox(broker: RedisServer) -> None:
    task_id = enqueue(charge, kwargs=JOB, countdown=5)
    relay = relay_to(broker.url)
    assert relay.run_once().taken == 0
    until(lambda: relay.run_once().published, "the publication")
    found = row(task_id)
    assert found.published_at is not None
    assert 5 <= (found.published_at - found.created_at).total_seconds() < 15
    (message,) = messages(broker.url)
    assert message["headers"]["eta"] is None


def test_enqueue_with_an_eta_is_due_then_or_now_if_it_has_passed(broker: RedisServer) -> None:
    tomorrow = timezone.now() + timedelta(days=1)
    assert row(enqueue(charge, kwargs=JOB, eta=tomorrow)).due_at == tomorrow
    enqueue(charge, kwargs=JOB, eta=timezone.now() - timedelta(days=1))
    assert relay_to(broker.url).run_once().taken == 1
