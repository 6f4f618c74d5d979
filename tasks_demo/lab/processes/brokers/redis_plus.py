"""Redis by the transport of celery-redis-plus, which must be installed beside the project: it needs Python 3.13 and Redis 7.

It keeps each message in a hash, names it in an index until it is acknowledged, and in a sorted set while it waits. It looks only
every 60 s, and when a worker starts, for messages whose visibility timeout is over.
"""

from __future__ import annotations

import sys
import time
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kombu.transport import TRANSPORT_ALIASES

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.lab.plan.brokers import BrokerKind
from tasks_demo.lab.processes.brokers.protocol import OnFetched, before_recording, without_password
from tasks_demo.lab.processes.brokers.redis import RedisBroker, RedisLane

ALIAS = "redis-plus"
_OLDEST_PYTHON, _OLDEST_REDIS = (3, 13), 7
#: Its keys (celery_redis_plus/constants.py).
_QUEUE, _INDEX, _MESSAGE = "queue:celery", "messages_index:celery", "message:"

TRANSPORT_ALIASES.setdefault(ALIAS, "celery_redis_plus.transport:Transport")


class RedisPlusBroker(RedisBroker):
    """A Redis server. Its keys of a run begin with ``lab:RUN:``."""

    def __init__(self, kind: BrokerKind, url: str, run: str) -> None:
        super().__init__(kind, redis_address(url), run)

    def prepare(self) -> None:
        if sys.version_info < _OLDEST_PYTHON or find_spec("celery_redis_plus") is None:
            running = ".".join(map(str, sys.version_info[:3]))
            raise EnvironmentNotReady(
                "The broker redis-plus is celery-redis-plus, which is not installed here. It needs Python 3.13 (this is "
                f"{running}) and redis-py 7: make a virtual environment for it, see docs/how-to/lab-broker.md."
            )
        super().prepare()

    def lane(self, name: str, _folder: Path | None = None, /) -> RedisPlusLane:
        return RedisPlusLane(self.url, f"lab:{self._run}:{name}:")


class RedisPlusLane(RedisLane):
    """A key prefix. A message is in the index at every moment, until it is acknowledged."""

    waits_in = "bzmpop"
    _put = ""

    @property
    def broker_url(self) -> str:
        return self.url.replace("unix://", f"{ALIAS}+socket://", 1).replace("redis://", f"{ALIAS}://", 1)

    def transport_options(self, visibility_timeout: float, worker: str = "") -> dict[str, Any]:
        return {
            "client_name": self.prefix + worker,
            "global_keyprefix": self.prefix,
            "visibility_timeout": visibility_timeout,
        }

    def check(self) -> None:
        super().check()
        found = str(self.client.info("server")["redis_version"])
        if int(found.partition(".")[0]) < _OLDEST_REDIS:
            raise EnvironmentNotReady(
                f"Redis at {without_password(self.url)} is {found}, and celery-redis-plus needs {_OLDEST_REDIS}. The embedded "
                "one is 6.2: name another server, --broker redis-plus://host:6379/0 or redis-plus+socket:///path."
            )

    def _ask(self, together: Any) -> None:
        queue, index = self.prefix + _QUEUE, self.prefix + _INDEX
        together.zcard(queue)
        together.zcard(index)
        together.zintercard(2, [queue, index])

    def _told(self, answers: list[int]) -> tuple[int, int]:
        queued, known, known_and_queued = answers
        return queued, known - known_and_queued

    def put(self, text: bytes) -> None:
        tag, now = str(uuid.uuid4()), time.time()
        self._put = tag
        with self.client.pipeline() as together:
            fields: dict[Any, Any] = {"payload": text, "routing_key": "celery", "priority": 0, "delivery_count": 0}
            together.hset(f"{self.prefix}{_MESSAGE}{tag}", mapping=fields)
            together.zadd(self.prefix + _INDEX, {tag: now + 3600})
            together.zadd(self.prefix + _QUEUE, {tag: 255 * 10**13 + int(now * 1000)})
            together.execute()

    def withdraw(self) -> bool:
        """What ends its worker stays in the index, and is delivered again after each timeout, at most 19 times."""
        self.client.zrem(self.prefix + _QUEUE, self._put)
        self.client.delete(f"{self.prefix}{_MESSAGE}{self._put}")
        return bool(self.client.zrem(self.prefix + _INDEX, self._put))


def redis_address(url: str) -> str:
    """The address as redis-py spells it."""
    return url.replace(f"{ALIAS}+socket://", "unix://", 1).replace(f"{ALIAS}://", "redis://", 1)


def watch(_held: str, fetched: OnFetched | None) -> None:
    """Call ``fetched`` where a message has been handed over, and Celery has not seen it."""
    from celery_redis_plus.transport import QoS

    if fetched is not None:
        before_recording(QoS, fetched)
