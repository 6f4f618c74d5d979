"""Batches of messages to one broker: how they are handed over together, and which of them the broker has confirmed.

A batch stands in for the channel of a kombu producer. It counts what is published through it; the answers come afterwards:

- Redis: one pipeline of LPUSH, sent by ``finish``. Redis answers each command. Where kombu has no batches, or retries commands
  by itself, each message is sent at once.
- RabbitMQ: each message is sent at once, on a channel with publisher confirms. ``finish`` waits for all confirms.
- Other brokers: each message is sent at once, and counts as confirmed when kombu returns.

What is **not** guaranteed: that the broker does not have a message whose answer is missing.
"""

from __future__ import annotations

import sys
from typing import Any

from amqp.exceptions import MessageNacked

from tasks_demo.core.exceptions import Unroutable

#: Maximum time for each step of publishing a batch, seconds.
BROKER_SECONDS = 5.0


class Batch:
    """Sends each message at once, and waits for no further answer.

    ``published``: the number of messages so far; the first is number 1. ``refused``: errors by number of message.
    ``unanswered``: the messages that the broker has neither confirmed nor refused.
    """

    #: Whether more messages can be published after the broker has raised an error.
    survives_errors = True

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self.published = 0
        self.refused: dict[int, Exception] = {}
        self.unanswered: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def basic_publish(self, message: Any, **options: Any) -> Any:
        """Publish one message; kombu's producer calls this. Raises Unroutable."""
        self._refuse_unroutable(**options)
        result = self._channel.basic_publish(message, **options)
        self.published += 1
        return result

    def _refuse_unroutable(self, exchange: str = "", routing_key: str = "", **_: Any) -> None:
        """kombu's own transports, Redis among them, drop a message that no queue takes, and ``mandatory`` is ignored."""
        if not exchange or not hasattr(self._channel, "typeof") or self._channel.typeof(exchange).type == "fanout":
            return  # the default exchange is the queue itself; another broker answers; a fanout has no queues
        if not self._channel._lookup(exchange, routing_key):
            raise Unroutable(
                f"No queue is bound to exchange {exchange!r} with routing key {routing_key!r}: correct them, or start a worker "
                "that consumes such a queue."
            )

    def finish(self) -> None:
        """Wait for the answers. Raises the transport's error if some are missing; see ``unanswered``."""

    def close(self) -> None:
        """End the batch."""


class RedisBatch(Batch):
    """Collects the commands in kombu's PublishBatch and sends them together."""

    def __init__(self, channel: Any) -> None:
        super().__init__(channel)
        self._commands = channel.create_publish_batch(max_size=sys.maxsize)

    def basic_publish(self, message: Any, **options: Any) -> Any:
        self._refuse_unroutable(**options)
        result = self._commands.publish(message, **options)
        # A message may be several commands: one per queue of a topic, and one for the expiry of a queue.
        self.unanswered.update(range(self.published + 1, len(self._commands.pipeline) + 1))
        self.published = len(self._commands.pipeline)
        return result

    def finish(self) -> None:
        # Not its flush(): that does not tell which commands failed.
        answers = self._commands.pipeline.execute(raise_on_error=False)
        self.refused = {n: answer for n, answer in enumerate(answers, 1) if isinstance(answer, Exception)}
        self.unanswered.clear()

    def close(self) -> None:
        self._commands.close()


class ConfirmedBatch(Batch):
    """Publishes on a channel of RabbitMQ with publisher confirms, and waits for all of them at the end."""

    #: RabbitMQ closes the channel, and py-amqp opens it again without confirms.
    survives_errors = False

    def __init__(self, connection: Any) -> None:
        super().__init__(connection.channel())
        self._connection = connection
        self._by_task_id: dict[str, int] = {}
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._acked)
        self._channel.events["basic_nack"].add(self._nacked)
        self._channel.events["basic_return"].add(self._returned)

    def basic_publish(self, message: Any, confirm_timeout: Any = None, **options: Any) -> Any:
        number = self.published + 1  # RabbitMQ counts the messages of a channel, too
        self.published = number
        self.unanswered.add(number)
        self._by_task_id[str((message.headers or {}).get("id"))] = number
        return self._channel.basic_publish(message, **options)

    def finish(self) -> None:
        while self.unanswered:
            self._connection.drain_events(timeout=BROKER_SECONDS)

    def close(self) -> None:
        if self._channel.is_open:
            self._channel.close()

    def _acked(self, number: int, multiple: bool) -> None:
        self.unanswered -= {each for each in self.unanswered if each == number or (multiple and each < number)}

    def _nacked(self, number: int, multiple: bool) -> None:
        before = set(self.unanswered)
        self._acked(number, multiple)
        self.refused |= {each: MessageNacked("RabbitMQ could not store it") for each in before - self.unanswered}

    def _returned(self, error: Exception, _exchange: str, _routing_key: str, message: Any) -> None:
        # No queue takes it. RabbitMQ returns it before it confirms it.
        number = self._by_task_id.get(str((message.headers or {}).get("id")))
        if number is not None:
            self.refused[number] = error


def batch_on(connection: Any) -> Batch:
    """Return an empty batch on this kombu connection. Raises the transport's errors."""
    if connection.transport.driver_name == "py-amqp":
        return ConfirmedBatch(connection)
    channel = connection.default_channel
    # Also of a transport that is derived from kombu's for Redis.
    if hasattr(channel, "create_publish_batch") and channel.supports_batch_publish:
        return RedisBatch(channel)
    return Batch(channel)
