"""Redis by the reliable transport: the keys, and the evidence of what the server holds, are those of ``redis.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks_demo.lab.plan.brokers import BrokerKind
from tasks_demo.lab.processes.brokers.protocol import OnFetched, before_recording
from tasks_demo.lab.processes.brokers.redis import RedisBroker, RedisLane
from tasks_demo.transport import ALIAS


class ReliableBroker(RedisBroker):
    """A Redis server. Its keys of a run begin with ``lab:RUN:``."""

    def __init__(self, kind: BrokerKind, url: str, run: str) -> None:
        super().__init__(kind, redis_address(url), run)

    def lane(self, name: str, _folder: Path | None = None, /) -> ReliableLane:
        return ReliableLane(self.url, f"lab:{self._run}:{name}:")


class ReliableLane(RedisLane):
    """A key prefix. A message is in a list or in ``unacked`` at every moment, because the transport moves it in one step."""

    @property
    def broker_url(self) -> str:
        return f"{ALIAS}+{self.url.replace('unix://', 'socket://', 1)}"

    def transport_options(self, visibility_timeout: float, worker: str = "") -> dict[str, Any]:
        """Its default times: redelivery about a second after a death, and none while a worker is only stopped by the lab."""
        return {"client_name": self.prefix + worker, "global_keyprefix": self.prefix}

    def dead_letters(self) -> int:
        """Messages that could not be decoded, or that killed too many workers."""
        return int(self.client.hlen(f"{self.prefix}_kombu.claims.dead_letters"))


def redis_address(url: str) -> str:
    """The address as redis-py spells it."""
    return url.removeprefix(f"{ALIAS}+").replace("socket://", "unix://", 1)


def watch(_held: str, fetched: OnFetched | None) -> None:
    """Call ``fetched`` where the reply of a claim has been read, and Celery has not seen the message."""
    from tasks_demo.transport.qos import QoS

    if fetched is not None:
        before_recording(QoS, fetched)
