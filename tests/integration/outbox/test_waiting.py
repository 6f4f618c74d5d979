"""A job that waits inside its worker, for its rate limit or its ETA, is not taken for lost: only the worker knows of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db.models import F

from tasks_demo.outbox import copy_search, enqueue
from tasks_demo.records.models import OutboxMessage
from tests.integration.outbox.outbox_table import environment, relay_to, row
from tests.integration.servers.redis import RedisServer
from tests.support import Home, Worker, until


class LimitedWorker(Worker):
    """A worker that has ``outbox_tasks.limited``, which runs once an hour."""

    options = ("--include", "tests.integration.outbox.outbox_tasks", "--queues", "limited")


class PlainWorker(Worker):
    """A worker of another project on the same broker, without this package's hooks, on a queue of its own."""

    app = "tests.integration.transport.plain_app"
    options = ("--queues", "theirs")


@pytest.fixture(params=["redis", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest, short: Path) -> Iterator[str]:
    """A broker that does not tell which messages come back by themselves."""
    if request.param == "rabbitmq":
        yield request.getfixturevalue("rabbitmq").url
        return
    with RedisServer(short) as server:
        yield server.url


def test_job_that_waits_in_its_worker_for_its_rate_limit_is_not_taken_for_lost(
    broker_url: str, table: str, home: Home, redis_url: str, settings: Any, tmp_path: Path
) -> None:
    env = environment(redis_url, TASKS_DEMO_OUTBOX_LEASE_SECONDS="50")
    env |= (
        {"BROKER_URL": broker_url}
        if broker_url.startswith("amqp")
        else {"REDIS_URL": broker_url, "BROKER_TRANSPORT": "redis"}
    )
    relay = relay_to(broker_url)
    first, waits = (enqueue("outbox_tasks.limited", queue="limited", external=True) for _ in range(2))
    assert relay.run_once().published == 2
    plain = {"BROKER": broker_url.replace("unix://", "redis+socket://", 1), "BOOKS": "", "DJANGO_SETTINGS_MODULE": ""}
    with (
        PlainWorker(home, tmp_path / "plain.log", plain),
        LimitedWorker(home, tmp_path / "worker.log", env) as worker,
    ):
        until(lambda: row(first).finished_at, "the end of the first")
        until(lambda: worker.log.read_text().count(".limited[") >= 3, "the second in the worker")
        overtakes = enqueue("celery.accumulate", [1, 2], queue="limited", external=True)
        assert relay.run_once().published == 1
        until(lambda: row(overtakes).finished_at, "the end of a later job")
        settings.TASKS_DEMO_OUTBOX_UNSTARTED_SECONDS = 0.1
        before = dict(copy_search._unasked_until)

        def look() -> int:
            OutboxMessage.objects.filter(task_id=waits).update(due_at=F("published_at"))
            result = relay.run_once()
            assert (result.taken, result.published, result.held) == (1, 0, 1)
            return (tmp_path / "plain.log").read_text().count("tasks_demo_holds")

        # One that answers too late, because it is starved, is asked again.
        until(
            lambda: look() and copy_search._unasked_until != before,
            "the answer of the worker that does not know the question",
        )
        assert look() == look(), "it is not asked again"
    relay.close()
