"""The points of a delivery, in groups: the one list that patterns, ledger, lab and dashboard share.

Pure: the standard library only.
"""

from __future__ import annotations

from enum import StrEnum


class Point(StrEnum):
    """A point of a delivery: first those of a delivery that succeeds, in order, then the alternative outcomes."""

    PUBLISHED = "published"  # the broker confirmed the message
    FETCHED = "fetched"  # popped from the queue, not yet recorded as unacknowledged; announced in the lab only
    RECEIVED = "received"  # a worker's main process got the message: one delivery
    CLAIMED = "claimed"  # the pattern holds the operation (a lease or a durable row)
    STARTED = "started"  # the body runs next: one execution
    EFFECT_BEGUN = "effect_begun"  # the body is about to change the outside world
    EFFECT_DONE = "effect_done"  # the outside world has confirmed the change
    COMPLETED = "completed"  # the pattern has stored its completed marker
    RETURNED = "returned"  # the body has returned, and its pattern has finished
    ACKING = "acking"  # the acknowledgement is about to be sent; announced in the lab only
    ACKED = "acked"  # the acknowledgement was sent to the broker

    SUPPRESSED = "suppressed"  # the operation was completed before: the body was not run
    DEFERRED = "deferred"  # requeued, to be delivered again later
    LEASE_LOST = "lease_lost"  # the holder found that it no longer holds the lease
    FENCED = "fenced"  # a write was refused because its fencing token was stale
    FAILED = "failed"  # the body, or its pattern, raised
    RETRIED = "retried"  # the task published itself again (self.retry)
    REPLACED = "replaced"  # the task published another one under its own task ID (self.replace)
    REJECTED = "rejected"  # the worker dropped the message: it knows no such task, or the task raised Reject
    IGNORED = "ignored"  # the task raised Ignore: acknowledged, no result stored
    EXPIRED = "expired"  # dropped after its expiry
    REVOKED = "revoked"  # dropped, or its process killed, by a revoke
    QUARANTINED = "quarantined"  # parked: its attempts are used up


#: Announced by the worker's main process. The others are announced by the process that runs the body (in the pools threads and
#: solo that is the main process, too). If a job's pool process died, the main process also announces ``failed`` and ``retried``.
BY_MAIN = frozenset(
    {Point.FETCHED, Point.RECEIVED, Point.ACKING, Point.ACKED, Point.REJECTED, Point.EXPIRED, Point.REVOKED}
)
#: Announced before the body. If an observer fails here, the body does not start.
MUST_PRECEDE = frozenset({Point.CLAIMED, Point.STARTED})
#: Announced from inside the body: a soft time limit that is raised in an observer here must reach the body.
IN_THE_BODY = frozenset({Point.EFFECT_BEGUN, Point.EFFECT_DONE, Point.FENCED})
#: Announced while the body runs, or directly after it.
FOLLOWS = frozenset({Point.EFFECT_BEGUN, Point.EFFECT_DONE, Point.COMPLETED})
