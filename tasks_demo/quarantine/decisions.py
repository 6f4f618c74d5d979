"""Requeues or discards a parked message, and records each decision: who, when and why.

``requeue`` does **not** guarantee to publish once: a crash between the broker's confirmation and the commit of the new state
leaves the row parked, so it can be requeued again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amqp.exceptions import ChannelError
from celery import current_app
from django.db import transaction
from django.utils import timezone
from kombu.exceptions import KombuError, OperationalError
from redis.exceptions import RedisError

from tasks_demo.core.exceptions import EnvironmentNotReady, RequeueFailed, Unroutable
from tasks_demo.core.lifecycle import described
from tasks_demo.outbox.batches import Batch
from tasks_demo.patterns.parking import message_of
from tasks_demo.patterns.requeue import PARKED
from tasks_demo.records.models import Decision, Parked

#: Timeout of each step of a publication, seconds.
BROKER_SECONDS = 5.0


@contextmanager
def confirming_producer() -> Iterator[Any]:
    """A producer whose publications the broker confirms, each step within BROKER_SECONDS. Raises the transport's errors.

    With ``mandatory=True`` a message that no queue takes is refused: RabbitMQ raises a channel error, other brokers Unroutable.
    """
    # RabbitMQ confirms only with confirm_publish, Redis by its reply. Without a timeout kombu waits for Redis indefinitely.
    options = {"confirm_publish": True, "socket_timeout": BROKER_SECONDS, "socket_connect_timeout": BROKER_SECONDS}
    with current_app.connection_for_write(transport_options=options) as broker:
        broker.ensure_connection(max_retries=1, interval_start=0)
        channel: Any = Batch(broker.default_channel)
        yield current_app.amqp.Producer(channel, auto_declare=False)


def requeue(parked: Parked, *, by: str, why: str) -> bool:
    """Publish the message again to its queue, with the same task ID and 0 attempts. Returns False if it is no longer parked.

    Commits the new state after the broker has confirmed the message. Raises EnvironmentNotReady if the broker does not accept it,
    and RequeueFailed if no message can be built from the row; either way nothing has changed.
    """
    try:
        copy = message_of(parked)
        copy["options"]["headers"] = {**(copy["options"].get("headers") or {}), PARKED: parked.pk}
        # Connect before the row is locked: a broker that does not answer takes seconds to time out.
        with confirming_producer() as producer, transaction.atomic(using=parked._state.db):
            if not _decided(parked, Parked.State.REQUEUED, "requeue", by, why):
                return False
            copy.apply_async(
                producer=producer, retry=False, mandatory=True, timeout=BROKER_SECONDS, confirm_timeout=BROKER_SECONDS
            )
    except (OperationalError, RedisError, OSError, RuntimeError) as error:  # RuntimeError: the result backend gave up
        raise EnvironmentNotReady(
            f"{parked} was not published again: the broker did not accept it ({_reason(error)}). It is still parked and nothing "
            "was changed. Start the broker, or make it writable, and try again."
        ) from error
    except (Unroutable, ChannelError) as error:
        raise RequeueFailed(
            f"{parked} was not published again: no queue takes it ({_reason(error)}). It is still parked and nothing was "
            "changed. Start a worker that consumes its queue, and try again."
        ) from error
    except (KombuError, TypeError, ValueError, LookupError) as error:
        raise RequeueFailed(
            f"{parked} was not published again: it cannot be turned into a message ({_reason(error)}). It is still parked and "
            "nothing was changed. Does its task still take these arguments, and is its serializer still in accept_content?"
        ) from error
    return True


def _reason(error: Exception) -> str:
    return described(error.__cause__ or error)


def discard(parked: Parked, *, by: str, why: str) -> bool:
    """Decide that the message never runs. Does not delete the row. Returns False if it is no longer parked."""
    with transaction.atomic(using=parked._state.db):
        return _decided(parked, Parked.State.DISCARDED, "discard", by, why)


def _decided(parked: Parked, state: Parked.State, decision: str, by: str, why: str) -> bool:
    """Change the row's state from parked and record who did it. Of two concurrent calls the second waits and returns False."""
    rows = Parked.objects.using(parked._state.db).filter(pk=parked.pk, state=Parked.State.PARKED)
    if not rows.update(state=state):
        return False
    decisions = Decision.objects.using(parked._state.db)
    decisions.create(parked_id=parked.pk, decision=decision, by=by[:255], why=why, at=timezone.now())
    return True
