"""What a person decides about messages of the outbox: publish one now that waits for a later time, or cancel one.

Neither contacts the broker. Each is one statement on one row, which does nothing if the row has changed meanwhile.
"""

from __future__ import annotations

from django.db.models import Q, QuerySet

from tasks_demo.core.clock import Now
from tasks_demo.outbox.wake import wake_on_commit
from tasks_demo.records.models import OutboxMessage

ENDED = Q(finished_at__isnull=False)
#: The broker has it, or a worker has begun it. The relay publishes it again on evidence of loss only.
HANDED_OVER = Q(published_at__isnull=False) | ~Q(started_by="")
BEGUN = ~Q(started_by="")


def due() -> Q:
    """The messages that the next relay takes: only a missing relay, or a broker that is down, keeps them from being published."""
    return Q(due_at__lte=Now())


def hasten(message: OutboxMessage) -> bool:
    """Make a message that was never published due now, whatever its countdown or back-off. Returns False if it is due, was handed
    over, or has ended.

    What is **not** guaranteed: that it is published once. A relay that has taken it at this moment publishes it too; workers
    suppress the second copy.
    """
    waiting = _row(message).exclude(ENDED).exclude(HANDED_OVER).exclude(due())
    hastened = bool(waiting.update(due_at=Now()))
    if hastened:
        wake_on_commit(str(message._state.db))
    return hastened


def cancel(message: OutboxMessage, *, by: str) -> bool:
    """End a message that no worker has begun, so that it is not run. Returns False if it was begun or has ended.

    A copy that the broker has is suppressed when a worker gets it. What is **not** guaranteed: that a copy is suppressed by a
    worker that does not import this package, or while the outbox's database does not answer.
    """
    return bool(
        _row(message).exclude(ENDED).exclude(BEGUN).update(finished_at=Now(), error=f"cancelled by {by}"[:2000])
    )


def _row(message: OutboxMessage) -> QuerySet[OutboxMessage]:
    return OutboxMessage.objects.using(message._state.db).filter(pk=message.pk)
