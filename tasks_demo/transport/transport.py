"""The kombu transport: which channel for which address, and when a consumer asks for messages."""

from __future__ import annotations

from typing import Any, Final

from kombu.transport import redis as stock

from tasks_demo.transport.address import scheme_of
from tasks_demo.transport.channel import Channel, SentinelChannel

#: The longest wait of a synchronous consumer before it looks again whether it may take messages; seconds.
_LOOK: Final = 1.0
_SENTINEL_PORT: Final = 26379


#: kombu leaves most of it untyped.
_Poller: Final[Any] = stock.MultiChannelPoller
_Transport: Final[Any] = stock.Transport


class Poller(_Poller):  # type: ignore[misc]
    """kombu's poller; raises OwnerFenced once an owner of this process was declared dead, so that the process starts
    no more jobs.
    """

    def on_poll_start(self) -> None:
        for channel in self._channels:
            if channel.owner is not None and channel.active_queues:
                _ = channel.owner.may_claim
        super().on_poll_start()

    def _register(self, channel: Any, client: Any, type: str) -> None:
        if self._chan_to_sock.get((channel, client, type)) is not None:
            self._unregister(channel, client, type)
            del self._chan_to_sock[channel, client, type]
        channel.connect(client.connection)
        super()._register(channel, client, type)

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        return super().get(callback, timeout=_LOOK if timeout is None else min(timeout, _LOOK))


class Transport(_Transport):  # type: ignore[misc]
    """Redis ≥ 6.2 by ``reliable+redis://``, ``reliable+rediss://``, ``reliable+socket://`` or ``reliable+sentinel://``."""

    Channel = Channel
    driver_name = "reliable redis"

    def __init__(self, client: Any, **kwargs: Any) -> None:
        scheme = scheme_of(client)
        super().__init__(client, **kwargs)
        if scheme == "sentinel":
            self.Channel = SentinelChannel
            self.default_port = _SENTINEL_PORT
        self.cycle = Poller()
        #: Celery's event loop; None: drain_events() drives this transport.
        self._loop: Any = None

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        super().register_with_event_loop(connection, loop)
        self._loop = loop

    @property
    def in_event_loop(self) -> bool:
        """Whether Celery's event loop drives it, and not drain_events()."""
        return self._loop is not None

    def wake_after(self, seconds: float) -> None:
        """Have the event loop poll again then, though nothing arrives."""
        if self._loop is not None:
            self._loop.call_later(seconds, lambda: None)
