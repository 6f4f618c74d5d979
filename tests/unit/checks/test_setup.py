"""What the checks look at: the pool and the command line of a worker, routes and queues."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import pytest
from celery.concurrency.prefork import TaskPool
from celery.concurrency.thread import TaskPool as Threads
from kombu import Queue
from pytest_django import Settings

from tasks_demo.checks import judge
from tasks_demo.checks.setup import is_on_redis
from tests.unit.checks.configurations import RABBIT, UNLIMITED, bounded_by, every_night, ids, locked, quarantined, shop


@dataclass
class Booted:
    """The attributes of a booting worker that Celery's signal passes on."""

    pool_cls: Any
    time_limit: float | None = None
    soft_time_limit: float | None = None
    prefetch_multiplier: int | None = None


def test_setup_of_a_worker_has_its_own_pool() -> None:
    app = shop(quarantined())
    assert judge(app, Booted(TaskPool)) == []
    found = {str(message.id).removeprefix("tasks_demo."): message.msg for message in judge(app, Booted(Threads))}
    assert set(found) == {"W001", "W024"}
    assert all("which the pool threads does not enforce" in text for text in found.values())
    # The setting says threads, the command line prefork.
    assert judge(shop(quarantined(), worker_pool="threads"), Booted(TaskPool)) == []


def test_setup_of_a_worker_has_limits_and_prefetch_of_its_command_line() -> None:
    app = shop(quarantined(), **UNLIMITED, worker_prefetch_multiplier=4)
    assert ids(app) == ["W001", "W008"]
    assert judge(app, Booted(TaskPool, time_limit=300, soft_time_limit=50)) == []
    assert [message.id for message in judge(app, Booted(TaskPool, 300, prefetch_multiplier=1))] == []


@pytest.mark.parametrize(
    ("url", "on_redis"),
    [
        ("redis://h", True),
        ("rediss://h", True),
        ("REDIS+socket:///s", True),
        ("sentinel://h", True),
        ("reliable+redis://h", True),
        ("reliable+socket:///s", True),
        ("reliable+sentinel://h", True),
        ("amqp://redis", False),
        ("redis", False),
        ("", False),
    ],
)
def test_setup_is_on_redis(url: str, *, on_redis: bool) -> None:
    assert is_on_redis(url) is on_redis


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent", "eventlet"])
def test_setup_names_the_pool_that_does_not_enforce(pool: str) -> None:
    text = " ".join(message.msg for message in judge(shop(quarantined(), worker_pool=pool)))
    assert text.count(f"which the pool {pool} ") == 2, text


def test_setup_uses_our_value_of_the_servers_bound(settings: Settings) -> None:
    app = shop(quarantined(time_limit=4 * 3600), **RABBIT)
    assert ids(app) == ["W020"]
    settings.TASKS_DEMO_CONSUMER_TIMEOUT_SECONDS = 5 * 3600
    assert ids(app) == []


def test_setup_follows_a_route_to_the_bound_of_its_queue() -> None:
    queues = [Queue("celery"), bounded_by(36_000)]
    app = shop(quarantined(time_limit=7200), **RABBIT, task_queues=queues)
    assert ids(app) == ["W020"]
    for route in ({"queue": "slow"}, "slow"):
        app = shop(quarantined(time_limit=7200), **RABBIT, task_queues=queues, task_routes={"shop.task0": route})
        assert ids(app) == []
    assert set(app.amqp.queues) == {"celery", "slow"}


def test_setup_with_a_failing_router_hides_nothing() -> None:
    def router(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> Any:
        return {"queue": args[0]}

    assert ids(shop(quarantined(time_limit=7200), **RABBIT, task_routes=(router,))) == ["W020"]


def test_setup_does_not_create_the_default_queue() -> None:
    app = shop({}, **RABBIT, task_routes={"shop.task0": {"queue": "slow"}})
    assert judge(app) == []
    assert set(app.amqp.queues) == {"celery"}


def test_setup_leaves_the_profile_of_others_alone() -> None:
    def mine(*_: Any) -> None:
        """A profiler."""

    sys.setprofile(mine)
    try:
        judge(shop(locked(operation=lambda: "nightly"), beat_schedule=every_night()))
        assert sys.getprofile() is mine
    finally:
        sys.setprofile(None)
