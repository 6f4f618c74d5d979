"""Examines RabbitMQ over AMQP: its version, and whether its queues match our declarations.

Does not see policies or the value of consumer_timeout, which AMQP does not report; the rows name the command that shows them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from amqp.exceptions import AMQPError, NotFound

from tasks_demo.checks.rules.broker import DELIVERIES
from tasks_demo.checks.setup import Setup, is_quorum
from tasks_demo.core.conf import settings
from tasks_demo.core.wording import counted
from tasks_demo.doctor.findings import Finding, State, fail, ok, reason, unusable

if TYPE_CHECKING:
    from tasks_demo.doctor.workers import Waiting

PART = "RabbitMQ"


def rabbitmq(setup: Setup, connection: Any) -> Iterator[Finding]:
    """Yield the findings about a server that answers."""
    yield _consumer_timeout(setup, connection)
    for name, queue in sorted(setup.queues.items()):
        row = _declared(name, queue, connection, setup)
        if row is not None:
            yield row


def version(connection: Any) -> tuple[int, ...]:
    """Return the server's version; empty if it does not report one."""
    text = str((getattr(connection.connection, "server_properties", None) or {}).get("version", ""))
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def confirms(options: Any) -> Finding:
    """Return the finding on whether the broker has a job when ``apply_async`` returns."""
    if options.get("confirm_publish"):
        return ok("connections", "confirms", "confirm_publish is set: apply_async returns when the broker has the job")
    return fail(
        "connections",
        "confirms",
        "confirm_publish is not set: apply_async returns even if the broker never gets the job",
        "Write CELERY_BROKER_TRANSPORT_OPTIONS = {'confirm_publish': True}.",
    )


def _consumer_timeout(setup: Setup, connection: Any) -> Finding:
    assumed = settings.CONSUMER_TIMEOUT_SECONDS
    since = version(connection)
    if since and since < (3, 8, 15):
        return ok(PART, "consumer_timeout", "this version has none: a message may stay unacknowledged")
    seen = f"not visible over AMQP; the checks assume {assumed:g} s (TASKS_DEMO_CONSUMER_TIMEOUT_SECONDS)"
    fix = "Compare, on its machine: `rabbitmqctl environment | grep consumer_timeout` (milliseconds; 30 minutes unless set)."
    state = State.WARN if any(task.acks_late for task in setup.tasks) else State.OK
    return Finding(PART, "consumer_timeout", state, seen, fix if state is State.WARN else "")


def _declared(name: str, queue: Any, connection: Any, setup: Setup) -> Finding | None:
    """Redeclare an existing queue: RabbitMQ refuses a different declaration, and an equal one has no effect."""
    what = f"queue {name}"[:60]
    channel = connection.channel()
    try:
        queue(channel).queue_declare(passive=True)
        queue(channel).queue_declare(passive=False)
    except NotFound:
        return None  # not an error: the first worker declares it
    except AMQPError as error:
        seen = f"it differs from its declaration here, so a worker that consumes it does not start: {reason(error)}"
        fix = "Delete it when it is empty (`rabbitmqctl delete_queue`) and declare it anew, or correct task_queues."
        return unusable(PART, what, seen, fix)
    finally:
        _close(channel)
    return _deliveries(what, queue, connection) if is_quorum(queue) else ok(PART, what, "as declared (classic)")


def _deliveries(what: str, queue: Any, connection: Any) -> Finding:
    arguments = queue.queue_arguments or {}
    limit, target = arguments.get("x-delivery-limit"), arguments.get("x-dead-letter-exchange")
    if limit is None and version(connection) >= (4,):
        limit = DELIVERIES
    if limit is None or int(limit) < 0:
        return ok(PART, what, "as declared (quorum), without a delivery limit")
    after = counted(int(limit), "delivery", "deliveries")
    if target:
        return ok(PART, what, f"as declared (quorum); after {after} a message goes to {target}")
    seen = f"quorum without a declared dead-letter exchange: a message is dropped after {after}, and nothing is logged"
    fix = "Declare x-dead-letter-exchange. Policies are not visible over AMQP: see `rabbitmqctl list_policies`."
    return fail(PART, what, seen, fix)


def depth(app: Any, queue: Any) -> Waiting:
    """Return the number of ready messages and of consumers. Excludes unacknowledged messages; AMQP does not report ages."""
    from tasks_demo.doctor.connections import connected
    from tasks_demo.doctor.workers import Waiting

    with connected(app) as connection:
        channel = connection.channel()
        try:
            reply = channel.queue_declare(getattr(queue, "name", queue), passive=True)
        except NotFound:
            return Waiting(0, consumers=0, missing=True)
        finally:
            _close(channel)
        return Waiting(int(reply.message_count), consumers=int(reply.consumer_count))


def _close(channel: Any) -> None:
    try:
        channel.close()
    except (AMQPError, OSError):  # the error has already closed it
        return
