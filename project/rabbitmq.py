"""How the project uses RabbitMQ: its queue, and where messages go that are delivered again and again."""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from kombu import Exchange, Queue

#: The project declares one queue, whichever its type.
QUEUE = "celery"
TYPES = ("quorum", "classic")
#: RabbitMQ 4's default, written down so that older servers have it too.
DELIVERY_LIMIT = 20
#: Nobody consumes this queue: `rabbitmqctl` and the management plugin show what is in it.
DEAD_LETTERS = Queue(
    "dead-letters", Exchange("dead-letters", type="fanout"), queue_arguments={"x-queue-type": "quorum"}
)


def declared(queue_type: str) -> Queue:
    """Return the project's queue.

    A quorum queue moves a message to DEAD_LETTERS after DELIVERY_LIMIT deliveries, and keeps it until it is confirmed there.
    A classic queue counts nothing, and delivers again without a limit.
    """
    if queue_type == "classic":
        return Queue(QUEUE, Exchange(QUEUE), routing_key=QUEUE)
    arguments = {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": DEAD_LETTERS.exchange.name,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",  # the strategy requires it
    }
    # With a topic exchange RabbitMQ itself keeps the messages that have a countdown. It has a name of its own: an exchange
    # cannot change its type, and Celery's default for every other project on this server is a direct one named "celery".
    exchange = Exchange(f"{QUEUE}-topic", type="topic")
    return Queue(QUEUE, exchange, routing_key=QUEUE, queue_arguments=arguments)


class DeclareDeadLetters(bootsteps.StartStopStep):
    """A worker that has connected declares DEAD_LETTERS if its queue uses it. Does nothing with another queue or broker."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, consumer: Any) -> None:
        exchanges = {
            (queue.queue_arguments or {}).get("x-dead-letter-exchange") for queue in consumer.app.amqp.queues.values()
        }
        if DEAD_LETTERS.exchange.name in exchanges:
            DEAD_LETTERS(consumer.connection.default_channel).declare()
