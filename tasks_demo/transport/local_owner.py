"""This process as an owner of messages of one broker: its name, its claims and its heartbeat, for all channels."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import redis
from kombu.log import get_logger
from redis.backoff import NoBackoff
from redis.retry import Retry

from tasks_demo.core.exceptions import OwnerFenced
from tasks_demo.transport.claims import Claims
from tasks_demo.transport.forks import when_forked
from tasks_demo.transport.heartbeat import Heartbeat
from tasks_demo.transport.keys import Keys, Lists
from tasks_demo.transport.options import Options
from tasks_demo.transport.owner import new_owner
from tasks_demo.transport.redelivery import Redelivery

logger = get_logger(__name__)
#: The longest wait for a reply; seconds.
_SOCKET_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Broker:
    """What an owner needs to know of its broker; a channel may be closed long before its owner ends."""

    keys: Keys
    options: Options
    lists: Lists
    #: For acknowledgements, and for the heartbeat. Nothing is connected yet.
    pools: tuple[redis.ConnectionPool, redis.ConnectionPool]
    connection_errors: tuple[type[BaseException], ...]
    visibility_timeout: float


class LocalOwner:
    """Lives as long as its process, or until it is declared dead: a connection that breaks does not end it."""

    def __init__(self, broker: Broker) -> None:
        self.pid = os.getpid()
        self.keys = broker.keys
        self.options = broker.options
        self.name = new_owner()
        redelivery = Redelivery(broker.keys, broker.lists, broker.options.delivery_limit)
        acks, self._pool = broker.pools
        for pool in broker.pools:
            _bound(pool, min(_SOCKET_SECONDS, broker.options.heartbeat_timeout / 3))
        self._pool.connection_kwargs |= {"client_name": self.name, "health_check_interval": 0}
        client = redis.Redis(connection_pool=acks)
        self.claims = Claims(self.name, broker.keys, client, redelivery, broker.connection_errors)
        self._heartbeat = Heartbeat(self.claims, redelivery, broker.options, self._connect, broker.visibility_timeout)
        when_forked(self._forget)
        atexit.register(self.leave)

    @property
    def lost(self) -> bool:
        """Declared dead, or left."""
        return self._heartbeat.lost or self.pid != os.getpid()

    @property
    def may_claim(self) -> bool:
        """Whether a claim is safe now. Raises OwnerFenced if this owner was declared dead: a new one is needed."""
        if self.lost:
            raise OwnerFenced
        return self._heartbeat.fresh

    def fence(self) -> OwnerFenced:
        """Redis has refused a claim: this owner is dead. The error is to be raised."""
        self._heartbeat.lost = True
        return OwnerFenced()

    def leave(self) -> None:
        """At exit: requeue what is still held, so that nobody has to notice that this process is gone."""
        if self.pid != os.getpid():
            return
        try:
            self._heartbeat.leave()
        except Exception as error:  # noqa: BLE001  # at exit nobody can handle it
            logger.warning("This worker could not leave its broker; the others will notice: %r", error)

    def _forget(self) -> None:
        atexit.unregister(self.leave)
        self._heartbeat.forget()

    def _connect(self) -> redis.Redis:
        return redis.Redis(connection_pool=self._pool, single_connection_client=True)


def _bound(pool: redis.ConnectionPool, seconds: float) -> None:
    """Every wait ends, and nothing is sent twice behind our back."""
    pool.connection_kwargs |= {"retry": Retry(NoBackoff(), 0), "retry_on_timeout": False, "socket_timeout": seconds}
    if "path" not in pool.connection_kwargs:
        pool.connection_kwargs["socket_connect_timeout"] = seconds


_local_owners: dict[tuple[object, ...], LocalOwner] = {}
_lock = threading.Lock()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _local_owners.clear()


os.register_at_fork(after_in_child=_after_fork)


def local_owner_for(address: tuple[object, ...], broker: Callable[[], Broker]) -> LocalOwner:
    """The owner that this process is for a broker; a new one if there is none, or if it was declared dead."""
    with _lock:
        owner = _local_owners.get(address)
        if owner is None or owner.lost:
            owner = _local_owners[address] = LocalOwner(broker())
        return owner
