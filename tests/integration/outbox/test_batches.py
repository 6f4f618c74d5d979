"""Batches: one trip to the broker, an answer for each message, and nothing marked without one. Real Redis, real RabbitMQ."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import kombu
import psutil
import pytest
from django.db import connections
from django.db.models import F

from tasks_demo.core import lifecycle
from tasks_demo.core.lifecycle import Point, Reached
from tasks_demo.outbox import batches, enqueue, publisher
from tasks_demo.outbox.batches import ConfirmedBatch, RedisBatch
from tasks_demo.records.models import OutboxMessage
from tests.integration.outbox.outbox_table import copies, relay_to, row
from tests.integration.servers.rabbitmq import RabbitServer, queue_name
from tests.integration.servers.redis import RedisServer
from tests.support import until

pytestmark = pytest.mark.usefixtures("table")
JOB = "celery.accumulate"


@pytest.fixture
def published() -> Iterator[list[str]]:
    """The task IDs whose publication was announced."""
    seen: list[str] = []

    def observe(event: Reached) -> None:
        if event.point is Point.PUBLISHED:
            seen.append(event.subject.task_id)

    lifecycle.observe(observe)
    yield seen
    lifecycle.ignore(observe)


def test_batch_is_one_trip_to_redis_and_one_statement_marks_it(broker: RedisServer, table: str) -> None:
    relay = relay_to(broker.url)
    enqueue(JOB, [0])
    assert relay.run_once().published == 1  # connects
    sent = [enqueue(JOB, [number], queue="side" if number % 10 == 0 else "celery") for number in range(1, 61)]
    marks: list[str] = []

    def watch(execute: Any, sql: str, *more: Any) -> Any:
        if sql.startswith("UPDATE") and "published_at" in sql:
            marks.append(sql)
        return execute(sql, *more)

    with broker.client() as client, connections[table].execute_wrapper(watch):
        before = client.info("stats")["total_reads_processed"]
        assert relay.run_once().published == 60
        reads = client.info("stats")["total_reads_processed"] - before
    assert reads < 20, "one by one it is more than one read for each message"
    assert len(marks) == 1
    assert set(copies(broker.url, "side")) | set(copies(broker.url)) >= set(sent)
    assert row(sent[9]).queue == "side at priority 0"
    assert row(sent[0]).queue == "celery at priority 0"


def test_publication_is_announced_when_redis_has_confirmed_it(broker: RedisServer, published: list[str]) -> None:
    with broker.client() as client:
        client.set("broken", "a queue's key that is no list")
    good, bad, more = enqueue(JOB, [1]), enqueue(JOB, [2], queue="broken"), enqueue(JOB, [3])
    result = relay_to(broker.url).run_once()
    assert (result.published, result.refused, result.trouble) == (2, 1, "")
    assert published == [good, more]
    assert (row(bad).publications, row(good).publications) == (0, 1)
    assert copies(broker.url) == Counter((good, more)), "those behind it are neither lost nor sent twice"


def test_lost_answers_mark_nothing_and_the_messages_are_published_one_by_one(
    broker: RedisServer, published: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is stopped when the batch is sent, and goes on when the relay has given up: it has all, and nobody knows."""
    monkeypatch.setattr(publisher, "BROKER_SECONDS", 1.0)
    relay = relay_to(broker.url)
    enqueue(JOB, [0])
    assert relay.run_once().published == 1  # connects
    finish, sizes = RedisBatch.finish, []

    def without_an_answer(self: RedisBatch) -> None:
        sizes.append(self.published)
        if len(sizes) > 1:
            finish(self)
            return
        monkeypatch.setattr(publisher, "BROKER_SECONDS", 5.0)  # of the connection that answers
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            finish(self)
        finally:
            os.kill(broker.pid, signal.SIGCONT)

    monkeypatch.setattr(RedisBatch, "finish", without_an_answer)
    sent = [enqueue(JOB, [number]) for number in range(1, 6)]
    held = enqueue(JOB, [6])
    close = relay._publisher.close

    def begun() -> None:  # a worker begins the last one, which proves that the broker has it
        OutboxMessage.objects.filter(task_id=held).update(started_by="a worker", due_at=F("created_at"))
        close()

    monkeypatch.setattr(relay._publisher, "close", begun)
    result = relay.run_once()
    assert sizes == [6, 1, 1, 1, 1, 1]
    assert (result.published, result.refused, result.trouble) == (5, 0, "")
    assert [row(task_id).publications for task_id in (*sent, held)] == [1] * 5 + [0]
    assert published[1:] == sent, "what was not confirmed was not announced"
    found = copies(broker.url)
    assert {task_id: found[task_id] for task_id in (*sent, held)} == {**dict.fromkeys(sent, 2), held: 1}


def test_batch_without_kombus_batches_each_message_is_sent_at_once(
    broker: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with an older kombu, or with retry_on_timeout, which would repeat a whole batch."""
    monkeypatch.setattr("kombu.transport.redis.Channel.supports_batch_publish", False)
    monkeypatch.setattr(RedisBatch, "__init__", None)  # it must not be used
    sent = [enqueue(JOB, [number]) for number in range(5)]
    assert relay_to(broker.url).run_once().published == 5
    assert copies(broker.url) == Counter(sent)


# -- RabbitMQ ------------------------------------------------------------------------------------------------------------------


def test_rabbitmq_confirms_a_batch_together(rabbitmq: RabbitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[int] = []
    drained = kombu.Connection.drain_events

    def drain(self: Any, **options: Any) -> Any:
        waits.append(1)
        return drained(self, **options)

    monkeypatch.setattr(kombu.Connection, "drain_events", drain)
    with queue_name(rabbitmq) as name:
        sent = [enqueue(JOB, [number], queue=name) for number in range(60)]
        relay = relay_to(rabbitmq.url)
        assert relay.run_once().published == 60
        relay.close()
        assert rabbitmq.depth(name) == 60
    assert OutboxMessage.objects.filter(task_id__in=sent, publications=1).count() == 60
    assert waits, "it has waited for confirms"
    assert len(waits) < 60, "several at a time"


def test_rabbitmq_that_nacks_some_has_these_refused(rabbitmq: RabbitServer, published: list[str]) -> None:
    with queue_name(rabbitmq) as name, kombu.Connection(rabbitmq.url) as connection:
        channel: Any = connection.default_channel
        arguments = {"x-max-length": 3, "x-overflow": "reject-publish"}
        channel.exchange_declare(f"{name}_x", "direct", durable=False, auto_delete=True)
        channel.queue_declare(name, durable=False, auto_delete=False, arguments=arguments)
        channel.queue_bind(name, f"{name}_x", "key")
        sent = [enqueue(JOB, [number], exchange=f"{name}_x", routing_key="key") for number in range(5)]
        relay = relay_to(rabbitmq.url)
        result = relay.run_once()
        relay.close()
        assert rabbitmq.depth(name) == 3
    assert (result.published, result.refused, result.trouble) == (3, 2, "")
    assert published == sent[:3]
    assert [row(task_id).publications for task_id in sent] == [1, 1, 1, 0, 0]
    assert "MessageNacked" in row(sent[4]).error


def test_message_that_ends_rabbitmqs_channel_neither_loses_nor_blocks_the_others(rabbitmq: RabbitServer) -> None:
    with queue_name(rabbitmq) as name:
        good = [enqueue(JOB, [number], queue=name) for number in range(4)]
        bad = enqueue(JOB, [9], exchange="no-such-exchange", routing_key="x")
        more = [enqueue(JOB, [number], queue=name) for number in range(4, 8)]
        relay = relay_to(rabbitmq.url)
        result = relay.run_once()
        errors = list(OutboxMessage.objects.exclude(error="").values_list("task_id", "error"))
        assert (result.published, result.refused, result.trouble) == (8, 1, ""), errors
        assert "NOT_FOUND" in row(bad).error
        assert row(bad).published_at is None
        depth = rabbitmq.depth(name)
        assert depth >= 8
        OutboxMessage.objects.filter(task_id=bad).update(due_at=F("created_at"))
        last = [enqueue(JOB, [number], queue=name) for number in range(8, 12)]
        result = relay.run_once()
        relay.close()
        assert (result.published, result.refused) == (4, 1)
        assert rabbitmq.depth(name) == depth + 4, "one that has failed goes alone, and costs no second copies"
    assert OutboxMessage.objects.filter(task_id__in=[*good, *more, *last], publications=1).count() == 12


def test_rabbitmq_that_does_not_answer_in_time_marks_nothing(
    rabbitmq: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node is stopped before the batch is sent, and goes on when the relay has given up."""
    node = psutil.Process(rabbitmq.process.pid)
    nodes = [node, *node.children(recursive=True)]
    publish, finish, sizes = ConfirmedBatch.basic_publish, ConfirmedBatch.finish, []

    def to_nobody(self: ConfirmedBatch, *message: Any, **options: Any) -> Any:
        if not sizes:
            for process in nodes:
                with suppress(psutil.NoSuchProcess):  # RabbitMQ asks df for the free space every now and then
                    process.suspend()
        return publish(self, *message, **options)

    def without_an_answer(self: ConfirmedBatch) -> None:
        sizes.append(self.published)
        if len(sizes) > 1:
            finish(self)
            return
        monkeypatch.setattr(batches, "BROKER_SECONDS", 0.3)
        try:
            finish(self)
        finally:
            monkeypatch.setattr(batches, "BROKER_SECONDS", 5.0)
            for process in nodes:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    with queue_name(rabbitmq) as name:
        relay = relay_to(rabbitmq.url)
        enqueue(JOB, [0], queue=name)
        assert relay.run_once().published == 1  # connects, and declares the queue
        sent = [enqueue(JOB, [number], queue=name) for number in range(1, 4)]
        monkeypatch.setattr(ConfirmedBatch, "basic_publish", to_nobody)
        monkeypatch.setattr(ConfirmedBatch, "finish", without_an_answer)
        result = relay.run_once()
        assert sizes[:2] == [3, 1], "what was not answered is sent again, one by one"
        assert result.refused == 0
        # The node may need longer than one attempt before it answers again.
        until(lambda: marked(sent) == [1, 1, 1] or not relay.run_once(), "three marked messages", 60)
        relay.close()
        assert rabbitmq.depth(name) >= 4


def marked(task_ids: list[str]) -> list[int]:
    """How often each was marked as published."""
    return [row(task_id).publications for task_id in task_ids]


@pytest.mark.parametrize("batched", [True, False])
def test_message_that_redis_has_no_queue_for_is_refused_and_not_marked(
    broker: RedisServer, monkeypatch: pytest.MonkeyPatch, batched: bool
) -> None:
    monkeypatch.setattr(kombu.transport.redis.Channel, "supports_batch_publish", batched, raising=False)
    good, bad = enqueue(JOB, [1]), enqueue(JOB, [2], exchange="nowhere", routing_key="none")
    result = relay_to(broker.url).run_once()
    assert (result.published, result.refused, result.trouble) == (1, 1, "")
    assert row(good).publications == 1
    assert row(bad).publications == 0
    assert "No queue is bound" in row(bad).error
