"""What a channel has delivered and not yet settled: prefetch counting, acknowledgement, rejection."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any, Final

from kombu.log import get_logger
from kombu.transport import redis as stock
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from tasks_demo.transport.claims import Claims
from tasks_demo.transport.lua import Client
from tasks_demo.transport.owner import owner_of

logger = get_logger(__name__)
#: kombu leaves most of it untyped.
_QoS: Final[Any] = stock.QoS


class QoS(_QoS):  # type: ignore[misc]
    """Settles claimed messages through their owner's claims; all others as stock kombu does.

    A claim outlives its channel: after a reconnect, the process still holds what it is running, and its acknowledgement counts.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._claims: dict[str, Claims] = {}

    def append(self, message: Any, delivery_tag: str) -> None:
        """Count a message as delivered. The claim has recorded it already."""
        if owner_of(delivery_tag) is None:
            super().append(message, delivery_tag)
            return
        self._claims[delivery_tag] = self.channel.owner.claims
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        if owner_of(delivery_tag) is None:
            super().ack(delivery_tag)
            return
        claims = self._claims.pop(delivery_tag, None)
        if claims is not None:  # not settled before
            claims.acknowledge(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Reject; requeued last in line, as stock kombu does."""
        if owner_of(delivery_tag) is None:
            super().reject(delivery_tag, requeue)
            return
        claims = self._claims.pop(delivery_tag, None)
        item = claims.held.get(delivery_tag) if claims is not None else None
        if claims is not None and requeue and item is not None:
            claims.requeue([item], first=False)
        elif claims is not None:
            claims.acknowledge(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: Client | None = None) -> None:
        """Requeue what was delivered and not settled, when the channel closes; not what goes on running in this process."""
        self._flush()
        running = _running()
        for tag in reversed(list(self._delivered)):
            if owner_of(tag) is None:
                self.restore_by_tag(tag, client=client)
                continue
            claims = self._claims.get(tag)
            item = claims.held.get(tag) if claims is not None else None
            if claims is not None and item is not None and tag not in running and tag not in claims.unsent:
                del self._claims[tag]
                claims.requeue([item])
        self._delivered.clear()

    def restore_by_tag(self, tag: str | bytes, client: Client | None = None, leftmost: bool = False) -> None:
        """Restore after the visibility timeout, which is for stock workers: what an owner holds is not restored."""
        owner = owner_of(bytes_to_str(tag))
        if owner is not None and self.channel.is_known(owner):
            return
        with self.channel.conn_or_acquire(client) as connected:
            try:
                record = connected.hget(self.unacked_key, tag)
                if record is not None:
                    # As stock kombu does next. It ends the worker at invalid JSON, and deletes what is not a message.
                    payload, _, _ = loads(bytes_to_str(record))
                    with suppress(KeyError):
                        payload["headers"]["redelivered"] = True
                        payload["properties"]["delivery_info"]["redelivered"] = True
            except (ValueError, TypeError, RecursionError) as error:
                connected.zrem(self.unacked_index_key, tag)
                logger.error(
                    "The unacknowledged message %s cannot be restored, because its record cannot be read (%r). It stays in "
                    "the hash %r, and nobody looks for it again.",
                    bytes_to_str(tag), error, self.unacked_key,
                )  # fmt: skip
                return
        super().restore_by_tag(tag, client=client, leftmost=leftmost)


def _running() -> frozenset[str]:
    """Tokens of the jobs that this Celery worker goes on running although a channel closes; none if the worker is stopping."""
    state = sys.modules.get("celery.worker.state")
    if state is None or any(
        flag is not None and flag is not False for flag in (state.should_stop, state.should_terminate)
    ):
        return frozenset()
    running = tuple(state.active_requests)
    return frozenset(request.message.delivery_tag for request in running if not request.acknowledged)
