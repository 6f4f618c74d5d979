"""Publishes messages of an outbox in batches on one connection. The broker confirms each, and each step has a timeout.

What is **not** guaranteed: that the broker does not have a message whose answer is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from celery import current_app
from kombu.exceptions import OperationalError as BrokerError

from tasks_demo.core.lifecycle import announce, held_back
from tasks_demo.outbox.batches import BROKER_SECONDS, Batch, batch_on
from tasks_demo.outbox.reporting import HEADER
from tasks_demo.outbox.table import expiry
from tasks_demo.records.models import OutboxMessage

app: Any = current_app  # the stubs of its proxy lack what is used here
#: Options that route a message.
ROUTE = ("queue", "exchange", "routing_key")


@dataclass(slots=True)
class Answers:
    """What became of a batch, by row ID. A row that is in neither was not published, or its answer is ``missing``.

    ``confirmed``: the queue and priority of each message that the broker has, as text. ``refused``: the broker certainly does not
    have it.
    """

    confirmed: dict[int, str] = field(default_factory=dict)
    refused: dict[int, Exception] = field(default_factory=dict)
    missing: Exception | None = None


class Publisher:
    """Publishes rows of the outbox ``using``. ``connect`` opens the connection with the given transport options.

    A task that is not imported here is published by name, without the options of its declaration. Without ``report``, workers do
    not report on the job.
    """

    def __init__(self, using: str, *, report: bool, connect: Callable[[dict[str, Any]], Any] | None) -> None:
        self._using = using
        self._report = report
        self._connect = connect or (lambda options: app.connection_for_write(transport_options=options))
        self._connection: Any = None
        self._router = _Router()
        self._priority = app.conf.task_default_priority

    def publish(self, rows: Sequence[OutboxMessage]) -> Answers:
        """Publish the messages as one batch. Does not raise: errors are in the answers.

        Redis has a message once it answers LPUSH; RabbitMQ once it confirms that a queue has it.
        """
        answers = Answers()
        sent: dict[int, tuple[str, range]] = {}
        batch: Batch | None = None
        with held_back() as points:
            try:
                batch = batch_on(self.connection())
                producer = app.amqp.Producer(batch, auto_declare=False)
                producer.maybe_declare = _Declarations(producer)
                for row in rows:
                    first = batch.published + 1
                    try:
                        queue = self._send(row, producer)
                    except Exception as error:
                        of_broker = isinstance(error, (BrokerError, *self.connection().channel_errors))
                        if self.unreachable(error) or (of_broker and not batch.survives_errors):
                            raise
                        answers.refused[row.id] = error
                    else:
                        sent[row.id] = queue, range(first, batch.published + 1)
                batch.finish()
            except Exception as error:  # noqa: BLE001  (transports may raise anything)
                answers.missing = self._named(error)
        if batch is not None:
            for id, (queue, numbers) in sent.items():
                refused = [batch.refused[number] for number in numbers if number in batch.refused]
                if refused:
                    answers.refused[id] = refused[0]
                elif batch.unanswered.isdisjoint(numbers):
                    answers.confirmed[id] = queue
            with suppress(Exception):
                batch.close()
        confirmed = {row.task_id for row in rows if row.id in answers.confirmed}
        for point in points:
            if point.subject.task_id in confirmed:
                announce(point)
        return answers

    def _send(self, row: OutboxMessage, producer: Any) -> str:
        """Hand one message to kombu's producer. Returns its queue and priority as text.

        Raises whatever the serializer, a router or the transport raises.
        """
        task = app.tasks.get(row.task)
        options = dict(row.options)
        if "expires" in options:
            options["expires"] = expiry(row)
        no_result = options.pop("ignore_result", bool(getattr(task, "ignore_result", False)))
        options["headers"] = {**options.get("headers", {}), "ignore_result": no_result}
        if self._report:
            options["headers"][HEADER] = self._using
        send: Any = partial(app.send_task, row.task) if task is None else task.apply_async
        args, kwargs = row.call(app)
        self._router.queue = ""
        send(
            args=args,
            kwargs=kwargs,
            task_id=row.task_id,
            producer=producer,
            router=self._router,
            # No caller waits for the result, so Celery need not subscribe to it. The worker reads the header above.
            ignore_result=True,
            retry=False,
            mandatory=True,
            timeout=BROKER_SECONDS,
            **options,
        )
        return self._place(row, "" if _has_exchange(row) else self._router.queue)

    def queue(self, row: OutboxMessage) -> str:
        """Return the queue to which Celery routes this message, or "" if the message names an exchange or routing key."""
        if _has_exchange(row):
            return ""
        task = app.tasks.get(row.task)
        options = {name: row.options[name] for name in ROUTE if name in row.options}
        if "queue" not in options and getattr(task, "queue", None):
            options["queue"] = task.queue
        self._router.route(options, row.task, *row.call(app), task_type=task)
        return self._router.queue

    def place(self, row: OutboxMessage) -> str:
        """Return what ``publish`` would return, without publishing."""
        return self._place(row, self.queue(row))

    def _place(self, row: OutboxMessage, queue: str) -> str:
        task = app.tasks.get(row.task)
        priority = row.options.get("priority", getattr(task, "priority", None))
        return f"{queue} at priority {(self._priority if priority is None else priority) or 0}"[:255]

    def connection(self) -> Any:
        """Return the connection to the broker; create it if necessary."""
        if self._connection is None:
            self._connection = self._connect(
                {
                    "confirm_publish": False,  # it would wait for each confirm; a batch waits for all of its own
                    "socket_timeout": BROKER_SECONDS,  # Redis; kombu has no limit
                    "socket_connect_timeout": BROKER_SECONDS,
                    # Enough retries to reach a failover host; the relay has its own back-off.
                    "max_retries": 3,
                    "interval_start": 0.1,
                    "interval_step": 0,
                }
            )
        return self._connection

    def close(self) -> None:
        """Close the connection; the next message opens a new one."""
        if self._connection is not None:
            self._connection.release()
            self._connection = None

    def _named(self, error: Exception) -> Exception:
        """Return the error as Celery raises it for a publication: the transport's own as the cause of a BrokerError."""
        if self._connection is None or isinstance(error, BrokerError):
            return error
        if not isinstance(error, (*self._connection.connection_errors, *self._connection.channel_errors)):
            return error
        named = BrokerError(str(error))
        named.__cause__ = error
        return named

    def unreachable(self, error: Exception) -> bool:
        """Return whether the error means that the broker did not answer. If not, the broker or Celery refused the message."""
        if not isinstance(error, BrokerError) or self._connection is None:
            return False
        # kombu counts KeyError as a lost connection to Redis.
        lost = tuple(kind for kind in self._connection.connection_errors if not issubclass(kind, LookupError))
        return error.__cause__ is None or isinstance(error.__cause__, lost)


class _Declarations:
    """kombu's ``Producer.maybe_declare``, once for each queue of a batch: it copies the queue to find out that it is declared."""

    def __init__(self, producer: Any) -> None:
        self._declare = producer.maybe_declare
        self._declared: dict[int, Any] = {}  # holds the entities, so that no other one gets the ID

    def __call__(self, entity: Any, *args: Any, **options: Any) -> Any:
        if id(entity) not in self._declared:
            self._declare(entity, *args, **options)
            self._declared[id(entity)] = entity


class _Router:
    """Celery's router, remembering the last queue it chose. Routing again would cost a tenth of a publication."""

    def __init__(self) -> None:
        self.queue = ""

    def route(self, *args: Any, **options: Any) -> Any:
        routed = app.amqp.router.route(*args, **options)
        queue = routed.get("queue", "")
        self.queue = str(getattr(queue, "name", queue))
        return routed


def _has_exchange(row: OutboxMessage) -> bool:
    return "queue" not in row.options and ("exchange" in row.options or "routing_key" in row.options)
