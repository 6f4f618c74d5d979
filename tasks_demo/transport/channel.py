"""Consume: kombu's Redis channel with a claim in place of its blocking pop.

An idle consumer sends a blocking pop of the queues' wake markers and the claim in one packet, so that Redis runs the claim as
soon as the wait ends. A marker is a hint: whoever leaves messages behind sets it again, and a poll finds the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty
from time import monotonic
from typing import Any, Final

import redis
from kombu.log import get_logger
from kombu.transport import redis as stock

from tasks_demo.transport.address import sentinel_database, tcp_parameters
from tasks_demo.transport.claims import QueueToClaim, claim_command, claimed
from tasks_demo.transport.heartbeat import drop_socket
from tasks_demo.transport.keys import Keys, Lists
from tasks_demo.transport.local_owner import Broker, LocalOwner, local_owner_for
from tasks_demo.transport.lua import Client, Part, script
from tasks_demo.transport.messages import Item, read
from tasks_demo.transport.options import Options
from tasks_demo.transport.publishing import Publishing
from tasks_demo.transport.qos import QoS
from tasks_demo.transport.reconnecting import Reconnecting
from tasks_demo.transport.refusals import naming_refusals

logger = get_logger(__name__)
#: kombu leaves most of it untyped.
_Channel: Final[Any] = stock.Channel
_SentinelChannel: Final[Any] = stock.SentinelChannel
#: How long the fast poll goes on after a message that came without a marker; seconds.
_STOCK_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Flight:
    """A claim whose reply has not been read."""

    number: int
    queues: Sequence[QueueToClaim]
    waits: bool


class Channel(Publishing, Reconnecting, _Channel):  # type: ignore[misc]
    """A channel of the reliable transport. ``owner`` is None until it consumes with acknowledgements."""

    QoS = QoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.owner: LocalOwner | None = None
        self._flight: _Flight | None = None
        #: Whether to wait for a marker before the next claim.
        self._wait = False
        self._stock_seen = float("-inf")
        self._receivers: dict[str, tuple[Callable[[Any], Any], bool]] = {}
        self._plain_client: Client | None = None
        super().__init__(*args, **kwargs)
        self.options = Options.of(self.connection.client.transport_options)
        self.keys = Keys(self.global_keyprefix, self.unacked_key, self.unacked_index_key)
        self.lists = Lists(self.sep, self.priority_steps)

    # -- the broker

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        hostname = self.connection.client.hostname or ""
        tcp = hostname.startswith(("redis://", "rediss://"))
        if hostname.startswith("rediss://"):
            self.connection_class = self.connection_class_ssl
        parameters: dict[str, Any] = super()._connparams(asynchronous)
        if tcp:
            parameters |= tcp_parameters(hostname)
            parameters["db"] = self._prepare_virtual_host(parameters.pop("vhost"))
        elif hostname.startswith("sentinel://"):
            parameters["db"] = self._prepare_virtual_host(sentinel_database(hostname))
        parameters["connection_class"] = naming_refusals(parameters["connection_class"])
        return parameters

    def plain(self) -> Client:
        """A client that leaves the names of keys alone."""
        if self._plain_client is None or self._plain_client.connection_pool is not self._pool:
            self._plain_client = redis.Redis(connection_pool=self.pool)
        return self._plain_client

    def _join(self) -> LocalOwner:
        """This process as an owner of messages; a new owner if the last one was declared dead."""
        if self.owner is None or self.owner.lost:
            parameters = self._connparams()
            address = (
                *(parameters.get(name) for name in ("path", "host", "port", "db")),
                getattr(self, "master_name", None), self.global_keyprefix, self.unacked_key,
            )  # fmt: skip
            self.owner = local_owner_for(
                address,
                lambda: Broker(
                    self.keys,
                    self.options,
                    self.lists,
                    (self._get_pool(), self._get_pool()),
                    self.connection_errors,
                    self.visibility_timeout,
                ),
            )
        return self.owner

    def is_known(self, owner: str) -> bool:
        """Whether an owner lives, or its messages are being requeued."""
        client = self.plain()
        return bool(client.hexists(self.keys.owners, owner) or client.sismember(self.keys.dead, owner))

    # -- consuming

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **kwargs: Any
    ) -> Any:
        consumer = super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        if queue not in self.active_fanout_queues:
            self._receivers[queue] = callback, bool(no_ack)
            if not no_ack and self.ack_emulation:
                self._join()
        return consumer

    def _queues(self, names: Sequence[str]) -> list[QueueToClaim]:
        return [(name, name in self._receivers and self._receivers[name][1]) for name in names]

    def _credit(self) -> int:
        """How many messages may be taken now."""
        credit: int | None = self.qos.can_consume_max_estimate()
        if credit is None:  # no prefetch limit; a synchronous consumer expects one message for each drain_events()
            credit = self.options.claim_batch if self.connection.in_event_loop else 1
        return min(credit, self.options.claim_batch)

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Send a claim, with a wait before it if the last one found nothing more."""
        owner = self.owner
        if owner is None:
            super()._brpop_start(timeout)
            return
        queues = self._queues(self._queue_cycle.consume(len(self.active_queues)))
        want = self._credit()
        if not queues or want < 1 or not owner.may_claim or monotonic() < self.not_before:
            return
        number = next(owner.claims.numbers)
        keys, args = claim_command(self.keys, self.lists, owner.name, number, want, queues)
        commands: list[tuple[Part, ...]] = [("EVALSHA", script("claim").sha, len(keys), *keys, *args)]
        if self._wait:
            if timeout is None:
                stock_about = monotonic() - self._stock_seen < _STOCK_SECONDS
                timeout = self.options.claim_poll_fast if stock_about else self.options.claim_poll
            commands.insert(0, ("BRPOP", *keys[4 : 4 + len(queues)], timeout))
        connection = self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        self._flight = _Flight(number, queues, self._wait)
        owner.claims.flights.add(number)
        with contextlib.suppress(Empty), self.reconnecting(connection, reads=False):
            connection.send_packed_command(connection.pack_commands(commands))

    def _brpop_read(self, **options: Any) -> bool:
        """Read the reply of a claim and deliver the messages. Raises Empty if there are none."""
        flight, owner = self._flight, self.owner
        if flight is None or owner is None:
            return bool(super()._brpop_read(**options))
        connection = self.client.connection
        try:
            woken, reply = self._replies(connection, flight)
            if reply[0] == b"fenced":
                raise owner.fence()
            self._wait = int(reply[0]) == 0
            if flight.waits and woken is None and len(reply) > 1:
                self._stock_seen = monotonic()
            items = self._take(owner, flight, reply)
        finally:
            self._end_flight(owner)
            self._in_poll = None
            self._flush_brpop_reauth()
        if not items:
            raise Empty
        self._deliver_all(owner, items)
        return True

    def _replies(self, connection: Any, flight: _Flight) -> tuple[Any, list[Any]]:
        woken = None
        try:
            with self.reconnecting(connection):
                if flight.waits:
                    woken = connection.read_response()
                return woken, connection.read_response()
        except redis.exceptions.NoScriptError:
            self.plain().script_load(script("claim").source)
            self._wait = False
        raise Empty

    def _take(self, owner: LocalOwner, flight: _Flight, reply: list[Any]) -> list[tuple[Item, bool]]:
        """Record what was claimed, before anything else can fail."""
        items = claimed(owner.name, flight.number, flight.queues, reply)
        owner.claims.held |= {item.token: item for item, recorded in items if recorded}
        return items

    def _deliver_all(self, owner: LocalOwner, items: list[tuple[Item, bool]]) -> None:
        items.reverse()
        try:
            while items:
                item, recorded = items[-1]
                if item.queue not in self.connection._callbacks:
                    break  # no more consumed from
                items.pop()
                self._queue_cycle.rotate(item.queue)
                message = self._decoded(owner, item, recorded)
                if message is not None:
                    if recorded:
                        self.qos.append(message, item.token)
                    self._receivers[item.queue][0](message)
        finally:
            if items:
                owner.claims.requeue([item for item, recorded in items if recorded], mark=False)

    def _decoded(self, owner: LocalOwner, item: Item, recorded: bool) -> Any:
        """Decode the message. Returns None if it is not valid; it is then dead-lettered, or dropped under no_ack."""
        try:
            payload = read(item.raw)
            payload["properties"]["delivery_tag"] = item.token
            return self.Message(payload, channel=self)
        except Exception as error:  # noqa: BLE001  # whatever was put on the queue, the worker goes on
            reason = f"not a message: {error or type(error).__name__}"
        if recorded:
            owner.claims.dead_letter(item, reason)
        else:
            logger.error(
                "An item of the queue %r was dropped: %s. It is lost, because this consumer does not acknowledge messages "
                "(no_ack).",
                item.queue,
                reason,
            )
        return None

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Take one message without waiting; None if there is none."""
        if no_ack or not self.ack_emulation:
            return super().basic_get(queue, no_ack=no_ack, **kwargs)
        owner = self._join()
        if not owner.may_claim:
            return None
        flight = _Flight(next(owner.claims.numbers), [(queue, False)], waits=False)
        keys, args = claim_command(self.keys, self.lists, owner.name, flight.number, 1, flight.queues)
        owner.claims.flights.add(flight.number)
        try:
            reply = script("claim").run(self.plain(), keys, args)
            if reply[0] == b"fenced":
                raise owner.fence()
            items = self._take(owner, flight, reply)
        finally:
            owner.claims.flights.discard(flight.number)
        for item, _ in items:
            message = self._decoded(owner, item, recorded=True)
            if message is not None:
                self.qos.append(message, item.token)
                return message
        return None

    def _end_flight(self, owner: LocalOwner | None) -> None:
        """Expect no reply to the claim in flight. If it was executed nevertheless, the audit requeues what it took."""
        flight, self._flight = self._flight, None
        if flight is not None and owner is not None:
            owner.claims.flights.discard(flight.number)

    def _on_connection_disconnect(self, connection: Any) -> None:
        if self._in_poll is connection:
            self._end_flight(self.owner)
        super()._on_connection_disconnect(connection)

    def _after_fork(self) -> None:
        """In a forked child: close its copies of the sockets that the parent consumes from."""
        for name in ("client", "subclient"):
            drop_socket(getattr(self.__dict__.get(name), "connection", None))
        super()._after_fork()

    def close(self) -> None:
        if self._flight is not None and self._in_poll:
            # Nothing is lost: what this claim still takes is requeued by the audit, or when the process leaves.
            self._end_flight(self.owner)
            self._in_poll.disconnect()
            self._in_poll = None
        super().close()


class SentinelChannel(Channel, _SentinelChannel):  # type: ignore[misc]
    """The same behind Redis Sentinel. What a failover loses, because the replica had not seen it, is lost."""
