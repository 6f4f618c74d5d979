"""Redis: a key prefix for each cell, and evidence of what the server holds under it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import redis
from kombu import Queue

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.lab.plan.brokers import BrokerKind
from tasks_demo.lab.processes.brokers.protocol import (
    TIMEOUT,
    Holdings,
    OnFetched,
    before_recording,
    queue_settings,
    without_password,
)
from tasks_demo.leases.redis_client import connect

#: kombu keeps one list per priority step (kombu/transport/redis.py PRIORITY_STEPS, sep).
_LISTS = ("celery", *(f"celery\x06\x16{step}" for step in (3, 6, 9)))


class RedisBroker:
    """A Redis server. Its keys of a run begin with ``lab:RUN:``."""

    def __init__(self, _kind: BrokerKind | None, url: str, run: str) -> None:
        self.url = url
        self._run = run

    def prepare(self) -> None:
        lane = self.lane("check")
        try:
            lane.check()
        finally:
            lane.close()

    def lane(self, name: str, _folder: Path | None = None, /) -> RedisLane:
        return RedisLane(self.url, f"lab:{self._run}:{name}:")

    def remove(self, run: str) -> None:
        lane = RedisLane(self.url, f"lab:{run}:")
        try:
            lane.purge()
        finally:
            lane.close()


class RedisLane:
    """A key prefix on a Redis server: queues, unacknowledged messages and locks of one cell, and of no other."""

    queue: Queue | None = None
    #: The command in which an idle worker is blocked.
    waits_in = "brpop"

    def __init__(self, url: str, prefix: str) -> None:
        self.url = url
        self.prefix = prefix
        self.client = connect(url, TIMEOUT)

    @property
    def broker_url(self) -> str:
        """The address in kombu's form."""
        return celery_address(self.url)

    def transport_options(self, visibility_timeout: float, worker: str = "") -> dict[str, Any]:
        """kombu's options: redelivery soon after a death, and above any healthy job of the lab.

        ``worker``: the name by which ``holdings`` finds the connections of the worker that gets them.
        """
        return {
            "client_name": self.prefix + worker,
            "global_keyprefix": self.prefix,
            "visibility_timeout": visibility_timeout,
            "unacked_restore_interval": 0.5,
            "unacked_restore_throttle": 1,
            # A kill in the middle of a sweep leaves this lock behind.
            "unacked_mutex_expire": 1,
        }

    def conf(self, worker: str) -> dict[str, Any]:
        return queue_settings()

    def held(self, worker: str) -> str:
        return ""

    def check(self) -> None:
        """Raise EnvironmentNotReady unless the server answers and takes writes."""
        key = f"{self.prefix}check"
        try:
            self.client.set(key, "1", ex=10)
            self.client.delete(key)
            self.holdings()
        except redis.RedisError as error:
            raise EnvironmentNotReady(
                f"Redis at {without_password(self.url)} cannot be used: {type(error).__name__}: {str(error).rstrip('.')}. "
                "Start it, check the password and that its user may write and run CLIENT LIST, or unset REDIS_URL for the "
                "embedded one."
            ) from error

    def holdings(self, worker: str | None = None) -> Holdings:
        """Messages that wait for a worker and messages that are not acknowledged (those with an ETA included).

        ``moving``: the worker is not blocked, waiting for messages, so it may have popped a message that is in neither list. One
        transaction: nothing moves between the answers.
        """
        with self.client.pipeline() as together:
            self._ask(together)
            together.client_list(_type="normal")
            *answers, clients = together.execute()
        queued, unacked = self._told(answers)
        waiting = {client["name"] for client in clients if client["cmd"] == self.waits_in and "b" in client["flags"]}
        return Holdings(queued, unacked, moving=worker is not None and self.prefix + worker not in waiting)

    def _ask(self, together: Any) -> None:
        """Ask, in this transaction, for what ``_told`` counts."""
        for name in _LISTS:
            together.llen(self.prefix + name)
        together.hlen(f"{self.prefix}unacked")

    def _told(self, answers: list[int]) -> tuple[int, int]:
        """How many messages are queued, and how many are unacknowledged."""
        *queued, unacked = answers
        return sum(queued), unacked

    def put(self, text: bytes) -> None:
        """Put this into its queue, as any client of Redis can."""
        self.client.lpush(f"{self.prefix}{_LISTS[0]}", text)

    def withdraw(self) -> bool:
        """Does nothing: stock kombu has no record of what it popped and cannot read; the reliable transport dead-letters it."""
        return False

    def dead_letters(self) -> int:
        """None: stock kombu has no such place."""
        return 0

    def purge(self) -> None:
        """Delete every key of this lane."""
        for key in self.client.scan_iter(match=f"{self.prefix}*", count=1000):
            self.client.delete(key)

    def disconnect(self) -> None:
        """Forget the connections: their server has ended."""
        self.client.connection_pool.disconnect()

    def close(self) -> None:
        self.client.close()


def celery_address(url: str) -> str:
    """The address as kombu and Celery's result backend spell it."""
    return url.replace("unix://", "redis+socket://", 1)


def client_address(url: str) -> str:
    """The inverse of ``celery_address``."""
    return url.replace("redis+socket://", "unix://", 1)


def watch(_held: str, fetched: OnFetched | None) -> None:
    """Call ``fetched`` where kombu has popped a message, and Redis does not know yet who has it (``QoS.append``)."""
    from kombu.transport.redis import QoS

    if fetched is not None:
        before_recording(QoS, fetched)
