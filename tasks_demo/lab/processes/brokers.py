"""The broker as the lab needs it: a lane of its own, and evidence of what the broker still holds."""

from __future__ import annotations

from typing import Any

import redis

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.leases.redis_store import connect

#: Bound on one question to the broker, seconds.
TIMEOUT = 5.0
#: kombu keeps one list per priority step (kombu/transport/redis.py PRIORITY_STEPS, sep).
_LISTS = ("celery", *(f"celery\x06\x16{step}" for step in (3, 6, 9)))


class RedisLane:
    """A key prefix on a Redis server: queues, unacknowledged messages and locks of one cell, and of no other."""

    def __init__(self, url: str, prefix: str) -> None:
        self.url = url
        self.prefix = prefix
        self.client = connect(url, TIMEOUT)

    @property
    def broker_url(self) -> str:
        """The address in kombu's form."""
        return self.url.replace("unix://", "redis+socket://", 1)

    def transport_options(self, visibility_timeout: float) -> dict[str, Any]:
        """kombu's options: redelivery soon after a death, and above any healthy job of the lab."""
        return {
            "global_keyprefix": self.prefix,
            "visibility_timeout": visibility_timeout,
            "unacked_restore_interval": 0.5,
            "unacked_restore_throttle": 1,
            # A kill in the middle of a sweep leaves this lock behind.
            "unacked_mutex_expire": 1,
        }

    def check(self) -> None:
        """Raise EnvironmentNotReady unless the server answers and takes writes."""
        key = f"{self.prefix}probe"
        try:
            self.client.set(key, "1", ex=10)
            self.client.delete(key)
        except redis.RedisError as error:
            raise EnvironmentNotReady(
                f"Redis at {without_password(self.url)} cannot be used: {type(error).__name__}: {str(error).rstrip('.')}. "
                "Start it, check the password and that it takes writes, or unset REDIS_URL for the embedded one."
            ) from error

    def queued(self) -> int:
        """Messages waiting for a worker."""
        return sum(int(self.client.llen(self.prefix + name)) for name in _LISTS)

    def unacked(self) -> int:
        """Messages that a worker has and has not acknowledged, waiting for their time included."""
        return int(self.client.hlen(f"{self.prefix}unacked"))

    def holds(self, task_id: str) -> bool:
        """Whether an unacknowledged message of this task is recorded."""
        return any(task_id.encode() in value for value in self.client.hvals(f"{self.prefix}unacked"))

    def purge(self) -> None:
        """Delete every key of this lane."""
        for key in self.client.scan_iter(match=f"{self.prefix}*", count=1000):
            self.client.delete(key)


def without_password(url: str) -> str:
    """The address for messages and logs."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}***@{rest.rsplit('@', 1)[1]}" if "@" in rest else url
