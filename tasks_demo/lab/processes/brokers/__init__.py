"""The brokers that the lab can run on, by the name of their kind (``plan.brokers``)."""

from __future__ import annotations

from collections.abc import Callable

from tasks_demo.lab.plan.brokers import KINDS, BrokerKind
from tasks_demo.lab.processes.brokers import rabbitmq, redis, redis_plus, reliable
from tasks_demo.lab.processes.brokers.protocol import (
    Broker,
    Holdings,
    Lane,
    OnFetched,
    queue_settings,
    without_password,
)
from tasks_demo.lab.processes.brokers.redis import RedisLane

__all__ = ["Broker", "Holdings", "Lane", "RedisLane", "connect", "queue_settings", "watch", "without_password"]

#: By family: its class, which is made of its kind, an address and the ID of the run; and what its workers observe.
_BROKERS: dict[str, Callable[[BrokerKind, str, str], Broker]] = {
    "redis": redis.RedisBroker,
    "rabbitmq": rabbitmq.RabbitBroker,
    "reliable": reliable.ReliableBroker,
    "redis-plus": redis_plus.RedisPlusBroker,
}
_WATCHES: dict[str, Callable[[str, OnFetched | None], None]] = {
    "redis": redis.watch,
    "rabbitmq": rabbitmq.watch,
    "reliable": reliable.watch,
    "redis-plus": redis_plus.watch,
}


def connect(kind: BrokerKind, url: str, run: str) -> Broker:
    """Return the broker at ``url`` for this run. Nothing is connected yet."""
    return _BROKERS[kind.family](kind, url, run)


def watch(kind: str, held: str, fetched: OnFetched | None) -> None:
    """Call in a worker's main process before it connects, see the ``watch`` of each family."""
    _WATCHES[KINDS[kind].family](held, fetched)
