"""A lane of the broker: a key prefix for one cell, and evidence of what the broker holds under it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.leases.redis_client import connect

#: Bound on one question to the broker, seconds.
TIMEOUT = 5.0
#: kombu keeps one list per priority step (kombu/transport/redis.py PRIORITY_STEPS, sep).
_LISTS = ("celery", *(f"celery\x06\x16{step}" for step in (3, 6, 9)))


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a broker held at one moment.

    ``fetching`` False: the worker was blocked in BRPOP, so no message was on its way between the queue and the list of
    unacknowledged ones. Without that, two empty lists prove nothing.
    """

    queued: int
    unacked: int
    fetching: bool


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

    def holdings(self, worker: str = "") -> Holdings:
        """Messages that wait for a worker and messages that are not acknowledged (those with an ETA included), and whether
        ``worker`` may have one that is in neither list. One transaction: nothing moves between the answers.
        """
        with self.client.pipeline() as together:
            for name in _LISTS:
                together.llen(self.prefix + name)
            together.hlen(f"{self.prefix}unacked")
            together.client_list(_type="normal")
            *queued, unacked, clients = together.execute()
        waiting = {client["name"] for client in clients if client["cmd"] == "brpop" and "b" in client["flags"]}
        return Holdings(sum(queued), unacked, self.prefix + worker not in waiting)

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
