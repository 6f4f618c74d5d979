"""Workers that live: one delivery for each message, whatever the connections do; and every way to consume."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kombu import Connection, Consumer, Queue

from tests.integration.transport.plain_workers import GEVENT, Environment, environment, template
from tests.support import until

__all__ = ["environment", "template"]
pytestmark = pytest.mark.timeout(120)
POOLS = {"prefork": ("-c", "2"), "solo": ("-P", "solo"), "threads": ("-P", "threads", "-c", "2")}
PREFORK, SOLO, THREADS = (pytest.param(pool, id=name) for name, pool in POOLS.items())


@pytest.mark.parametrize("pool", [PREFORK, SOLO, THREADS, GEVENT])
def test_worker_of_each_pool_runs_every_job_once_and_leaves_nothing(
    environment: Environment, pool: tuple[str, ...]
) -> None:
    environment.publish("note", *(f"before{number}" for number in range(8)))
    environment.publish("note", "urgent", priority=0)
    worker = environment.worker(*pool, prefetch=4)
    environment.publish("note", *(f"after{number}" for number in range(8)))
    until(lambda: sum(environment.count("ran").values()) >= 17 and environment.nowhere, "all have run")
    assert set(environment.count("ran").values()) == {1}
    worker.stop(20)
    assert environment.owners() == {}
    assert "Traceback" not in worker.said, worker.said


def test_worker_asked_to_stop_requeues_what_it_has_not_begun(environment: Environment) -> None:
    worker = environment.worker("-c", "1", prefetch=4)
    environment.publish("wait", "a", "b", "c")
    until(
        lambda: environment.count("began") and environment.owners()[worker.pid].held == 3,
        "one runs, two are prefetched",
    )
    worker._process.send_signal(signal.SIGTERM)
    environment.release("a", "b", "c")
    until(lambda: not worker.alive(), "the warm shutdown")
    ran = environment.count("ran")
    assert ran["a"] == 1
    assert sum(ran.values()) + environment.redis.llen("celery") == 3
    assert environment.redis.hlen("unacked") == 0


def test_job_and_eta_longer_than_the_visibility_timeout_are_delivered_once(environment: Environment) -> None:
    """A second worker on the transport and a stock one look for what is overdue all the time."""
    eager: dict[str, Any] = {"visibility_timeout": 2, "unacked_restore_interval": 0.2, "unacked_restore_throttle": 1}
    environment.launched("-P", "threads", "-c", "1", "-Q", "other", stock=True, **eager)
    environment.launched("-P", "solo", "-Q", "other", **eager)
    worker = environment.worker("-c", "2", prefetch=2, **eager)
    environment.publish("wait", "long")
    environment.publish("note", "later", eta=datetime.now(UTC) + timedelta(seconds=5))
    until(
        lambda: (
            environment.count("began")
            and (environment.owners()[worker.pid].held == 2 or environment.count("ran")["later"])
        ),
        "both are held, or the ETA came before a starved worker had them",
    )
    until(lambda: environment.count("ran")["later"] == 1, "the ETA")
    environment.release("long")
    until(lambda: environment.nowhere, "both are acknowledged")
    assert environment.count("began") == {"long": 1}
    assert environment.count("ran") == {"long": 1, "later": 1}


@pytest.mark.parametrize("pool", [PREFORK, THREADS, GEVENT])
def test_worker_whose_connections_are_dropped_runs_every_job_once(
    environment: Environment, pool: tuple[str, ...]
) -> None:
    worker = environment.worker(*pool, prefetch=4)
    words = [f"j{number}" for number in range(60)]
    environment.publish("wait", "long")
    until(lambda: environment.count("began"), "the long job")
    dropped = 0
    for start in range(0, len(words), 3):
        environment.publish("note", *words[start : start + 3])
        dropped += environment.drop_connections()
        until(lambda at=start: len(environment.count("ran")) >= at, "the jobs so far")  # type: ignore[misc]
    assert dropped >= 40
    until(lambda: len(environment.count("ran")) == len(words), "all short jobs")
    environment.release("long")
    until(lambda: environment.nowhere, "all are acknowledged")
    assert environment.count("began") == {"long": 1}
    assert set(environment.count("ran").values()) == {1}, environment.count("ran").most_common(3)
    assert environment.owners().keys() == {worker.pid}


@pytest.mark.parametrize("pool", [PREFORK, THREADS, GEVENT])
def test_worker_runs_every_job_once_when_redis_is_killed_and_started_again(
    environment: Environment, pool: tuple[str, ...]
) -> None:
    worker = environment.worker(*pool, prefetch=2)
    environment.publish("wait", "a", "b", "c")
    until(lambda: len(environment.count("began")) == 2, "two jobs")
    until(lambda: environment.owners()[worker.pid].held == 3, "the third is prefetched")
    environment.server.kill()
    environment.release("a")
    until(lambda: environment.count("ran")["a"], "a job ends while Redis is down")
    environment.server.start()
    environment.publish("note", "after")
    environment.release("b", "c")
    until(lambda: environment.count("ran").keys() >= {"a", "b", "c", "after"} and environment.nowhere, "everything", 60)
    assert set(environment.count("ran").values()) == {1}


def test_worker_loses_nothing_in_an_outage_that_celery_notices(environment: Environment) -> None:
    worker = environment.worker("-c", "1", prefetch=3)
    environment.publish("wait", "a", "b", "c")
    until(
        lambda: environment.count("began") and environment.owners()[worker.pid].held == 3,
        "one runs, two are prefetched",
    )
    environment.server.kill()
    until(lambda: "Connection to broker lost" in worker.said, "the end of its patience")
    environment.server.start()
    environment.release("a", "b", "c")
    until(lambda: environment.count("ran").keys() == {"a", "b", "c"} and environment.nowhere, "everything", 60)


def test_queues_priorities_and_a_key_prefix_are_as_in_kombu(environment: Environment) -> None:
    options = {"global_keyprefix": "shop:", "priority_steps": [0, 5, 9]}
    with Connection(environment.url(), transport_options=options) as connection:
        producer = connection.Producer(serializer="json")
        queues = [Queue("one"), Queue("two")]
        for word, queue, priority in [("late", "one", 9), ("first", "one", 0), ("other", "two", 5)]:
            producer.publish(word, routing_key=queue, priority=priority, declare=queues)
        # The lists and the text are stock kombu's.
        assert environment.redis.llen("shop:one") == environment.redis.llen("shop:one\x06\x169") == 1
        got: list[str] = []

        def take(body: str, message: Any) -> None:
            got.append(body)
            message.ack()

        with Consumer(connection, queues, callbacks=[take]):
            while len(got) < 3:
                connection.drain_events(timeout=5)
        assert sorted(got) == ["first", "late", "other"]
        assert got.index("first") < got.index("late")
        assert connection.default_channel.basic_get("one") is None
        producer.publish("again", routing_key="one")
        message = connection.default_channel.basic_get("one")
        message.requeue()
        again = connection.default_channel.basic_get("one")
        assert again.headers["redelivered"] is True
        again.reject()
        connection.default_channel.owner.leave()
    assert not environment.redis.keys("unacked*")
    assert environment.redis.hlen("shop:unacked") == 0


#: How a server is made to refuse writes, and to take them again.
REFUSALS = {
    "replica": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "too few replicas": (("CONFIG", "SET", "min-replicas-to-write", "1"), ("CONFIG", "SET", "min-replicas-to-write", "0")),
    "memory": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
}  # fmt: skip


@pytest.mark.parametrize(
    ("why", "pool"),
    [("memory", POOLS["prefork"]), ("too few replicas", POOLS["prefork"]), *(("replica", it) for it in POOLS.values())],
    ids=lambda value: value if isinstance(value, str) else value[1] if value[0] == "-P" else "prefork",
)
def test_worker_keeps_its_jobs_while_redis_takes_no_writes(
    environment: Environment, why: str, pool: tuple[str, ...]
) -> None:
    begin, end = REFUSALS[why]
    worker = environment.worker(*pool, prefetch=2)
    environment.publish("wait", "a")
    until(lambda: environment.count("began"), "a job")
    environment.publish("note", *(f"j{number}" for number in range(12)))
    environment.redis.execute_command(*begin)
    try:
        environment.release("a")
        until(lambda: environment.count("ran")["a"] == 1, "the end of the job, whose acknowledgement may be refused")
        if why != "memory":  # claims and acknowledgements are never refused for that
            until(
                lambda: environment.redis.info("commandstats")["cmdstat_evalsha"]["failed_calls"] > 8,
                "refused calls",
                30,
            )
    finally:
        environment.redis.execute_command(*end)
    until(lambda: len(environment.count("ran")) == 13 and environment.nowhere, "all jobs", 60)
    assert set(environment.count("ran").values()) == {1}
    assert worker.alive()
    assert "Unrecoverable" not in worker.said
    assert "Connection to broker lost" not in worker.said, "Celery drops jobs that it has not begun"
