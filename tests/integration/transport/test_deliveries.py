"""Workers that live: one delivery for each message, whatever the connections do; and every way to consume."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kombu import Connection, Consumer, Queue

from tests.integration.transport.ground import GEVENT, Ground, ground, template
from tests.support import until

__all__ = ["ground", "template"]
pytestmark = pytest.mark.timeout(120)
POOLS = {"prefork": ("-c", "2"), "solo": ("-P", "solo"), "threads": ("-P", "threads", "-c", "2")}
PREFORK, SOLO, THREADS = (pytest.param(pool, id=name) for name, pool in POOLS.items())


@pytest.mark.parametrize("pool", [PREFORK, SOLO, THREADS, GEVENT])
def test_worker_of_each_pool_runs_every_job_once_and_leaves_nothing(ground: Ground, pool: tuple[str, ...]) -> None:
    ground.publish("note", *(f"before{number}" for number in range(8)))
    ground.publish("note", "urgent", priority=0)
    worker = ground.worker(*pool, prefetch=4)
    ground.publish("note", *(f"after{number}" for number in range(8)))
    until(lambda: sum(ground.count("ran").values()) >= 17 and ground.nowhere, "all have run")
    assert set(ground.count("ran").values()) == {1}
    worker.stop(20)
    assert ground.owners() == {}
    assert "Traceback" not in worker.said, worker.said


def test_worker_asked_to_stop_requeues_what_it_has_not_begun(ground: Ground) -> None:
    worker = ground.worker("-c", "1", prefetch=4)
    ground.publish("wait", "a", "b", "c")
    until(lambda: ground.count("began") and ground.owners()[worker.pid].held == 3, "one runs, two are prefetched")
    worker._process.send_signal(signal.SIGTERM)
    ground.let_go("a", "b", "c")
    until(lambda: not worker.alive(), "the warm shutdown")
    ran = ground.count("ran")
    assert ran["a"] == 1
    assert sum(ran.values()) + ground.redis.llen("celery") == 3
    assert ground.redis.hlen("unacked") == 0


def test_job_and_eta_longer_than_the_visibility_timeout_are_delivered_once(ground: Ground) -> None:
    """A second worker on the transport and a stock one look for what is overdue all the time."""
    eager: dict[str, Any] = {"visibility_timeout": 2, "unacked_restore_interval": 0.2, "unacked_restore_throttle": 1}
    ground.launched("-P", "threads", "-c", "1", "-Q", "other", stock=True, **eager)
    ground.launched("-P", "solo", "-Q", "other", **eager)
    worker = ground.worker("-c", "2", prefetch=2, **eager)
    ground.publish("wait", "long")
    ground.publish("note", "later", eta=datetime.now(UTC) + timedelta(seconds=5))
    until(
        lambda: ground.count("began") and (ground.owners()[worker.pid].held == 2 or ground.count("ran")["later"]),
        "both are held, or the ETA came before a starved worker had them",
    )
    until(lambda: ground.count("ran")["later"] == 1, "the ETA")
    ground.let_go("long")
    until(lambda: ground.nowhere, "both are acknowledged")
    assert ground.count("began") == {"long": 1}
    assert ground.count("ran") == {"long": 1, "later": 1}


@pytest.mark.parametrize("pool", [PREFORK, THREADS, GEVENT])
def test_worker_whose_connections_are_dropped_runs_every_job_once(ground: Ground, pool: tuple[str, ...]) -> None:
    worker = ground.worker(*pool, prefetch=4)
    words = [f"j{number}" for number in range(60)]
    ground.publish("wait", "long")
    until(lambda: ground.count("began"), "the long job")
    dropped = 0
    for start in range(0, len(words), 3):
        ground.publish("note", *words[start : start + 3])
        dropped += ground.drop_connections()
        until(lambda at=start: len(ground.count("ran")) >= at, "the jobs so far")  # type: ignore[misc]
    assert dropped >= 40
    until(lambda: len(ground.count("ran")) == len(words), "all short jobs")
    ground.let_go("long")
    until(lambda: ground.nowhere, "all are acknowledged")
    assert ground.count("began") == {"long": 1}
    assert set(ground.count("ran").values()) == {1}, ground.count("ran").most_common(3)
    assert ground.owners().keys() == {worker.pid}


@pytest.mark.parametrize("pool", [PREFORK, THREADS, GEVENT])
def test_worker_runs_every_job_once_when_redis_is_killed_and_started_again(
    ground: Ground, pool: tuple[str, ...]
) -> None:
    worker = ground.worker(*pool, prefetch=2)
    ground.publish("wait", "a", "b", "c")
    until(lambda: len(ground.count("began")) == 2, "two jobs")
    until(lambda: ground.owners()[worker.pid].held == 3, "the third is prefetched")
    ground.server.kill()
    ground.let_go("a")
    until(lambda: ground.count("ran")["a"], "a job ends while Redis is down")
    ground.server.start()
    ground.publish("note", "after")
    ground.let_go("b", "c")
    until(lambda: ground.count("ran").keys() >= {"a", "b", "c", "after"} and ground.nowhere, "everything", 60)
    assert set(ground.count("ran").values()) == {1}


def test_worker_loses_nothing_in_an_outage_that_celery_notices(ground: Ground) -> None:
    worker = ground.worker("-c", "1", prefetch=3)
    ground.publish("wait", "a", "b", "c")
    until(lambda: ground.count("began") and ground.owners()[worker.pid].held == 3, "one runs, two are prefetched")
    ground.server.kill()
    until(lambda: "Connection to broker lost" in worker.said, "the end of its patience")
    ground.server.start()
    ground.let_go("a", "b", "c")
    until(lambda: ground.count("ran").keys() == {"a", "b", "c"} and ground.nowhere, "everything", 60)


def test_queues_priorities_and_a_key_prefix_are_as_in_kombu(ground: Ground) -> None:
    options = {"global_keyprefix": "shop:", "priority_steps": [0, 5, 9]}
    with Connection(ground.url(), transport_options=options) as connection:
        producer = connection.Producer(serializer="json")
        queues = [Queue("one"), Queue("two")]
        for word, queue, priority in [("late", "one", 9), ("first", "one", 0), ("other", "two", 5)]:
            producer.publish(word, routing_key=queue, priority=priority, declare=queues)
        # The lists and the text are stock kombu's.
        assert ground.redis.llen("shop:one") == ground.redis.llen("shop:one\x06\x169") == 1
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
        connection.default_channel.member.leave()
    assert not ground.redis.keys("unacked*")
    assert ground.redis.hlen("shop:unacked") == 0


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
def test_worker_keeps_its_jobs_while_redis_takes_no_writes(ground: Ground, why: str, pool: tuple[str, ...]) -> None:
    begin, end = REFUSALS[why]
    worker = ground.worker(*pool, prefetch=2)
    ground.publish("wait", "a")
    until(lambda: ground.count("began"), "a job")
    ground.publish("note", *(f"j{number}" for number in range(12)))
    ground.redis.execute_command(*begin)
    try:
        ground.let_go("a")
        until(lambda: ground.count("ran")["a"] == 1, "the end of the job, whose acknowledgement may be refused")
        if why != "memory":  # claims and acknowledgements are never refused for that
            until(lambda: ground.redis.info("commandstats")["cmdstat_evalsha"]["failed_calls"] > 8, "refused calls", 30)
    finally:
        ground.redis.execute_command(*end)
    until(lambda: len(ground.count("ran")) == 13 and ground.nowhere, "all jobs", 60)
    assert set(ground.count("ran").values()) == {1}
    assert worker.alive()
    assert "Unrecoverable" not in worker.said
    assert "Connection to broker lost" not in worker.said, "Celery drops jobs that it has not begun"
