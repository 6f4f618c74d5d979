"""Predicts what each pattern does when a connection is cut, delayed or black-holed: of its worker or of its publisher. Pure."""

from __future__ import annotations

from tasks_demo.core.lifecycle import BY_MAIN
from tasks_demo.lab.plan.brokers import BrokerKind
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.outcomes import LOST, ONCE, Prediction, predict

_COPY = "A lost acknowledgement leads to a second delivery"


def disturbed_connection(pattern: str, fault: str, kind: BrokerKind, point: str = "") -> Prediction:
    """The worker's connections to the broker. ``fault``: ``cut``, ``delay`` or ``black-hole``; at ``point``, or in the body."""
    if fault == "delay":
        why = "Everything arrives before any timeout, so nothing is lost or repeated."
        return predict(pattern, why, lost=False, twice=False)
    if kind.family == "reliable":
        why = "The worker connects again and repeats the commands that were not answered; it keeps its jobs meanwhile."
        return predict(pattern, why, lost=False, twice=False)
    if fault == "black-hole" and kind.loses_fetched and pattern in {"acks_early", "claim_first", "acks_late"}:
        why = (
            "Redis has popped the message, and the command that records it is swallowed: the message is lost although its worker "
            "lives."
        )
        if point == "fetched":
            return Prediction("broken" if pattern == "acks_late" else "open", why, required=frozenset({LOST}))
        if point == "mixed":
            return Prediction("open", why)
    if pattern == "acks_late":
        if point:
            why = (
                "At a point of the main process, the main process is about to send a command, and redis-py sends it again on a "
                "new connection."
                if point in BY_MAIN
                else "The body continues."
            )
            return predict(pattern, f"{why} {_COPY}, and the body runs again.", lost=False)
        # With its prefetch of 1 it asks for no other message while it has one.
        why = "The acknowledgement is not sent on another connection: the message is redelivered, and the body runs again."
        return predict(pattern, why, lost=False, twice=True)
    if pattern == "outbox":
        why = "The message is redelivered; its row names the end of the job, and the copy stops."
        return predict(pattern, why, lost=False, twice=False)
    if pattern in ONCE:
        return predict(
            pattern, "The message is redelivered; the copy finds the operation done, or waits for its holder."
        )
    why, lost = "", None if kind.loses_fetched else False
    if lost is None:
        why = "The worker had asked for the next message: a message that Redis had popped for it is lost with the connection. "
    if pattern == "claim_first":
        return predict(pattern, f"{why}{_COPY}, which stops at the claim.", lost=lost, twice=False)
    excluded = frozenset[str]() if lost is None else frozenset({LOST})
    return Prediction("open", f"{why}{_COPY}, and the body runs again.", excluded=excluded)


def disturbed_publication(pattern: str, fault: Fault) -> Prediction:
    """The connection of the publisher, while it publishes. It publishes unconfirmed messages again."""
    if fault.disturbance is not Fault.CUT:
        why = (
            "The publisher waits for the confirmation; the swallowed message has not arrived, so publishing it again makes one "
            "copy."
        )
        return predict(pattern, why, lost=False, twice=False)
    why = "The broker has the message and the publisher does not know it, so it publishes again, and there are two messages"
    if pattern == "outbox":
        return predict(
            pattern,
            f"{why}. The outbox row names the worker that begins first, and the other copy stops.",
            lost=False,
            twice=False,
        )
    if pattern in {"acks_early", "acks_late"}:
        return predict(pattern, f"{why}. Nothing compares them, and both run.", lost=False, twice=True)
    return predict(pattern, f"{why} of one operation: the second finds it claimed or done.", lost=False, twice=False)


def disturbed_commit(pattern: str, fault: Fault) -> Prediction:
    """The worker's connection to its database, at the commit of the effect."""
    why = "The commit and its answer arrive before any timeout."
    if fault.disturbance is Fault.CUT:
        why = "Effect and inbox entry are committed; the worker does not know it and requeues the message, and the copy stops."
    elif fault.disturbance is Fault.BLACK_HOLE:
        why = "The database never sees the commit and rolls back with the connection; the message is requeued and runs again."
    return predict(pattern, why, lost=False, twice=False)


def disturbed_claim(pattern: str, fault: Fault) -> Prediction:
    """The worker's connection to the server of its claims: a database, or for ``dedup_lock`` the Redis of the leases."""
    if pattern == "dedup_lock" and fault.disturbance is Fault.DELAY:
        why = "The lease expires before its holder gets the answer: the body does not run, and the deferred copy claims again."
    elif pattern == "dedup_lock":
        why = "The claim is sent again with the same token, and Redis gives the same answer as the first time."
    elif pattern == "outbox":
        why = "The same worker claims the row again on a new connection, which is allowed."
    elif fault.disturbance is Fault.CUT:
        why = "The claim is committed and the worker does not know it: the body does not run, and the copy stops at the claim."
        return predict(pattern, why, lost=True, twice=False)
    else:
        why = "The claim arrives late, or not at all: then the message is deferred, and the copy claims the operation."
    return predict(pattern, why, lost=False, twice=False)
