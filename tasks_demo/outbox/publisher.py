"""Publishes messages of an outbox on one connection. The broker confirms each, and each step has a timeout.

What is **not** guaranteed: that a failed publication left no message in the broker; the answer may have been lost.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from kombu.exceptions import OperationalError as BrokerError

from tasks_demo.outbox.reporting import HEADER
from tasks_demo.outbox.table import expiry
from tasks_demo.records.models import OutboxMessage

#: Maximum time for each step of publishing a message, seconds.
BROKER_SECONDS = 5.0
#: Options that route a message.
ROUTE = ("queue", "exchange", "routing_key")


class Publisher:
    """Publishes rows of the outbox ``using``. ``connect`` opens the connection with the given transport options.

    A task that is not imported here is published by name, without the options of its declaration. Without ``report``, workers do
    not report on the job.
    """

    def __init__(self, app: Any, using: str, *, report: bool, connect: Callable[[dict[str, Any]], Any] | None) -> None:
        self._app = app
        self._using = using
        self._report = report
        self._connect = connect or (lambda options: app.connection_for_write(transport_options=options))
        self._connection: Any = None
        self._router = _Router(app)

    def publish(self, row: OutboxMessage) -> str:
        """Publish the message. Returns its queue and priority as text.

        Redis has the message once it answers LPUSH; RabbitMQ once it confirms that a queue has it. Raises whatever the
        serializer, a router or the transport raises.
        """
        task = self._app.tasks.get(row.task)
        options = dict(row.options)
        if "expires" in options:
            options["expires"] = expiry(row)
        no_result = options.pop("ignore_result", bool(getattr(task, "ignore_result", False)))
        options["headers"] = {**options.get("headers", {}), "ignore_result": no_result}
        if self._report:
            options["headers"][HEADER] = self._using
        send: Any = partial(self._app.send_task, row.task) if task is None else task.apply_async
        args, kwargs = row.call(self._app)
        self._router.queue = ""
        send(
            args=args,
            kwargs=kwargs,
            task_id=row.task_id,
            producer=self._producer(),
            router=self._router,
            # No caller waits for the result, so Celery need not subscribe to it. The worker reads the header above.
            ignore_result=True,
            retry=False,
            mandatory=True,
            timeout=BROKER_SECONDS,
            confirm_timeout=BROKER_SECONDS,
            **options,
        )
        return self._place(row, "" if _has_exchange(row) else self._router.queue)

    def queue(self, row: OutboxMessage) -> str:
        """Return the queue to which Celery routes this message, or "" if the message names an exchange or routing key."""
        if _has_exchange(row):
            return ""
        task = self._app.tasks.get(row.task)
        options = {name: row.options[name] for name in ROUTE if name in row.options}
        if "queue" not in options and getattr(task, "queue", None):
            options["queue"] = task.queue
        self._router.route(options, row.task, *row.call(self._app), task_type=task)
        return self._router.queue

    def place(self, row: OutboxMessage) -> str:
        """Return what ``publish`` would return, without publishing."""
        return self._place(row, self.queue(row))

    def _place(self, row: OutboxMessage, queue: str) -> str:
        task = self._app.tasks.get(row.task)
        priority = row.options.get("priority", getattr(task, "priority", None))
        if priority is None:
            priority = self._app.conf.task_default_priority
        return f"{queue} at priority {priority or 0}"[:255]

    def connection(self) -> Any:
        """Return the connection to the broker; create it if necessary."""
        if self._connection is None:
            self._connection = self._connect(
                {
                    "confirm_publish": True,  # RabbitMQ; other transports ignore it
                    "socket_timeout": BROKER_SECONDS,  # Redis; kombu would wait for ever
                    "socket_connect_timeout": BROKER_SECONDS,
                    # Enough retries to reach a failover host; the relay has its own back-off.
                    "max_retries": 3,
                    "interval_start": 0.1,
                    "interval_step": 0,
                }
            )
        return self._connection

    def _producer(self) -> Any:
        return self._app.amqp.Producer(self.connection(), auto_declare=False)

    def close(self) -> None:
        """Close the connection; the next message opens a new one."""
        if self._connection is not None:
            self._connection.release()
            self._connection = None

    def unreachable(self, error: Exception) -> bool:
        """Return whether the error means that the broker did not answer. If not, the broker or Celery refused the message."""
        if not isinstance(error, BrokerError) or self._connection is None:
            return False
        # kombu counts KeyError as a lost connection to Redis.
        lost = tuple(kind for kind in self._connection.connection_errors if not issubclass(kind, LookupError))
        return error.__cause__ is None or isinstance(error.__cause__, lost)


class _Router:
    """Celery's router, remembering the last queue it chose. Routing again would cost a tenth of a publication."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.queue = ""

    def route(self, *args: Any, **options: Any) -> Any:
        routed = self._app.amqp.router.route(*args, **options)
        queue = routed.get("queue", "")
        self.queue = str(getattr(queue, "name", queue))
        return routed


def _has_exchange(row: OutboxMessage) -> bool:
    return "queue" not in row.options and ("exchange" in row.options or "routing_key" in row.options)
