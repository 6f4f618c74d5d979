"""Connections that break are opened again without a word to Celery.

Celery answers a connection error by dropping every job that it has not begun, and by losing track of some that it has. Nothing
of that is needed here, because the claims of this process outlive its connections. If Redis still does not answer, the new
connection fails, and Celery gets that error.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from queue import Empty
from time import monotonic, sleep
from typing import Any, Final

from kombu.log import get_logger

from tasks_demo.transport.refusals import WritesRefused

logger = get_logger(__name__)
#: More than this many connections that broke within _SECONDS, with no reply read meanwhile, are Celery's business, which
#: waits between its attempts.
_MOST: Final = 5
_SECONDS: Final = 1.0
#: How long a connection is tried again, and the pause between two attempts; seconds. Sentinel needs some to elect a primary.
_PATIENCE: Final = 5.0
_PAUSE: Final = 0.05
#: How long a server that takes no writes is left alone; seconds.
_REFUSED_SECONDS: Final = 0.25


class Reconnecting:
    """For a Redis channel: turns the loss of a consuming connection into an empty poll."""

    connection_errors: tuple[type[BaseException], ...]
    #: When the next claim may be sent, monotonic.
    not_before = 0.0

    @contextlib.contextmanager
    def reconnecting(self, connection: Any, *, reads: bool = True) -> Iterator[None]:
        """Drop the connection if the block fails with it. Raises Empty in place of the error; the next poll connects.

        ``reads``: whether the block ends with a reply. What was only sent does not prove that Redis answers.
        """
        try:
            yield
            if reads:
                self._broken().clear()
        except self.connection_errors as error:
            connection.disconnect()
            if isinstance(error, WritesRefused):
                self._leave_alone(error)
            elif self._too_often():
                raise
            else:
                logger.warning(
                    "The connection to Redis broke and is opened again; this worker keeps its jobs. %r", error
                )
            raise Empty from error

    def _leave_alone(self: Any, error: WritesRefused) -> None:
        now = monotonic()
        if now - self.not_before > _REFUSED_SECONDS:
            logger.warning(
                "Redis takes no writes; this worker keeps its jobs, and asks again every %g s. %s",
                _REFUSED_SECONDS,
                error,
            )
        self.not_before = now + _REFUSED_SECONDS
        self.connection.wake_after(_REFUSED_SECONDS)

    def connect(self, connection: Any) -> None:
        """Connect; while Redis restarts or fails over, try again. A longer outage is Celery's business: raises its error.

        Nothing else happens in this thread meanwhile. Jobs go on, and what they acknowledge is sent later.
        """
        deadline = monotonic() + _PATIENCE
        while True:
            try:
                if connection._sock is None:
                    connection.connect()
                return
            except self.connection_errors:
                connection.disconnect()
                if monotonic() > deadline:
                    raise
                sleep(_PAUSE)

    def _subscribe(self: Any) -> None:
        """Subscribe; after a loss, the next poll does."""
        with contextlib.suppress(Empty), self.reconnecting(self.subclient.connection, reads=False):
            super()._subscribe()  # type: ignore[misc]

    def _receive(self: Any) -> Any:
        """Read what was broadcast; after a loss, the next poll subscribes again."""
        with self.reconnecting(self.subclient.connection):
            return super()._receive()  # type: ignore[misc]

    def _poll_error(self: Any, type: str, **options: Any) -> Any:
        """The socket has an error: reading finds it."""
        return self.handlers[type]()

    def _broken(self) -> deque[float]:
        """When the last connections broke; monotonic seconds."""
        found: deque[float] = self.__dict__.setdefault("_broken_at", deque(maxlen=_MOST))
        return found

    def _too_often(self) -> bool:
        broken, now = self._broken(), monotonic()
        often = len(broken) == _MOST and now - broken[0] < _SECONDS
        broken.append(now)
        return often
