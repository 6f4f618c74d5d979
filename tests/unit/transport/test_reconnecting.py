"""When a consuming connection that broke is opened again without a word to Celery."""

from __future__ import annotations

from queue import Empty

import pytest

from tasks_demo.transport.reconnecting import Reconnecting


class Connection:
    def __init__(self) -> None:
        self.closed = 0

    def disconnect(self) -> None:
        self.closed += 1


class Consumer(Reconnecting):
    connection_errors = (ConnectionError,)

    def __init__(self) -> None:
        self.connection = Connection()

    def loses(self) -> type[BaseException]:
        """The error of a poll whose connection breaks."""
        with pytest.raises((Empty, ConnectionError)) as caught, self.reconnecting(self.connection):
            raise ConnectionError("dropped")
        return caught.type

    def sends(self) -> None:
        with self.reconnecting(self.connection, reads=False):
            pass

    def reads(self) -> None:
        with self.reconnecting(self.connection):
            pass


def test_reconnecting_hands_an_outage_to_celery_and_nothing_less() -> None:
    consumer, answered = Consumer(), Consumer()
    for _ in range(5):
        assert consumer.loses() is Empty
        consumer.sends()
    assert consumer.loses() is ConnectionError, "nothing was read in between: Redis does not answer"
    assert consumer.connection.closed == 6
    for _ in range(50):
        assert answered.loses() is Empty
        answered.reads()
