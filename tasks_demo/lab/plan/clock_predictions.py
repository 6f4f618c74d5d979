"""Predicts what each pattern does when the wall clock of its worker jumps forward and back. Pure."""

from __future__ import annotations

from tasks_demo.lab.plan.brokers import BrokerKind
from tasks_demo.lab.plan.outcomes import LOST, ONCE, Prediction, predict


def after_clock_jump(pattern: str, kind: BrokerKind, point: str = "") -> Prediction:
    """At ``point``, or in the body."""
    if kind.family == "redis-plus":
        return Prediction("open", "Not measured: its worker sets and moves the timeouts of its messages itself.")
    if not kind.times_out:
        why = "No deadline of a message or a lease is read from a worker's clock."
        return predict(pattern, why, lost=False, twice=False)
    why = "By the worker's clock, every message that it holds is overdue, and kombu requeues them while their jobs run"
    if pattern == "acks_early":
        return Prediction("open", why + ": a message that waits in the worker runs twice.", excluded=frozenset({LOST}))
    if pattern == "claim_first":
        return predict(pattern, why + "; the copy stops at the claim.", lost=False, twice=False)
    if pattern == "outbox":
        return predict(
            pattern, why + "; its row names the end of the job, and the copy stops.", lost=False, twice=False
        )
    if pattern in ONCE:
        return predict(pattern, why + "; the copy finds the operation completed, or waits for its holder.")
    return predict(pattern, why + ", and they run again.", lost=False, twice=None if point else True)
