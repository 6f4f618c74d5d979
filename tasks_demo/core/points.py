"""The points of a task's life, and which of them are alike: the one list that patterns, ledger, lab and dashboard agree on.

Pure: the standard library only.
"""

from __future__ import annotations

from enum import StrEnum


class Point(StrEnum):
    """A named moment of a task's life, in the order of a healthy one; then the alternative outcomes."""

    PUBLISHED = "published"  # the broker confirmed that it has the message
    FETCHED = "fetched"  # popped, and the broker does not know yet by whom; announced in the lab only
    RECEIVED = "received"  # a worker's main process was handed the message: one delivery
    CLAIMED = "claimed"  # the pattern took the operation (a lease or a durable row)
    STARTED = "started"  # one execution: the body runs next
    EFFECT_BEGUN = "effect_begun"  # the body is about to change the outside world
    EFFECT_DONE = "effect_done"  # the outside world confirmed the change
    COMPLETED = "completed"  # the pattern's completed marker is stored
    RETURNED = "returned"  # the body and its pattern are through
    ACKING = "acking"  # about to be acknowledged; announced in the lab only
    ACKED = "acked"  # the worker acknowledged the message to the broker

    SUPPRESSED = "suppressed"  # the operation was already completed: the body was not run
    DEFERRED = "deferred"  # requeued for later
    LEASE_LOST = "lease_lost"  # the holder learnt that it no longer holds the operation
    FENCED = "fenced"  # a write was refused because its fencing token was stale
    FAILED = "failed"  # the body, or its pattern, raised
    RETRIED = "retried"  # the task asked to be published again
    REPLACED = "replaced"  # the task published another one under its own task ID (Celery's self.replace)
    REJECTED = "rejected"  # the worker dropped the message: it is no task of its own, or the task rejected it
    IGNORED = "ignored"  # the task raised Ignore: acknowledged, and Celery reports nothing
    EXPIRED = "expired"  # dropped because it was too old
    REVOKED = "revoked"  # dropped, or its process killed, because somebody revoked it
    QUARANTINED = "quarantined"  # parked after too many attempts


#: Announced by a worker's main process only; all other points of a delivery by whoever runs the body. (With the pools threads
#: and solo that is the same process. ``failed`` and ``retried`` of a job whose pool process died come from main, too.)
BY_MAIN = frozenset(
    {Point.FETCHED, Point.RECEIVED, Point.ACKING, Point.ACKED, Point.REJECTED, Point.EXPIRED, Point.REVOKED}
)
#: At these the body has not begun, and does not begin if an observer fails.
MUST_PRECEDE = frozenset({Point.CLAIMED, Point.STARTED})
#: A body announces these: a soft time limit that strikes in an observer there is meant for the body.
IN_THE_BODY = frozenset({Point.EFFECT_BEGUN, Point.EFFECT_DONE, Point.FENCED})
#: Announced while the body runs, or right after it.
FOLLOWS = frozenset({Point.EFFECT_BEGUN, Point.EFFECT_DONE, Point.COMPLETED})
