"""Predicts what each pattern does when a process of its worker is killed or asked to end: in the body, at a point, at any moment.

Pure.
"""

from __future__ import annotations

from dataclasses import replace

from tasks_demo.lab.plan.brokers import REDIS, BrokerKind
from tasks_demo.lab.plan.outcomes import DUPLICATED, EARLY, LATE, LOST, Prediction, predict

ONCE_AGAIN = {
    "dedup_lock": "The message is redelivered, and the next worker waits for the dead holder's lease; the bank knows the key.",
    "inbox": "The message is redelivered; booking and inbox entry were committed together, or neither was.",
}
_CLAIMED = "The durable claim stops any second delivery; a job that died after its claim is not done."


def after_kill(pattern: str) -> Prediction:
    """In the body, before and after its effect; with early acknowledgement, after it was sent."""
    if pattern in EARLY:
        why = "The message was acknowledged when the pool accepted it, so there is no copy when the process dies."
        return predict(pattern, why, lost=True, twice=False)
    if pattern in LATE:
        why = "The message is not acknowledged while the body runs: it is redelivered, and a charge that was made is made again."
        return predict(pattern, why, lost=False, twice=True)
    return predict(pattern, ONCE_AGAIN[pattern])


def after_memory_error(pattern: str) -> Prediction:
    """A MemoryError in the body, before and after its effect."""
    why = "Celery's main process ends itself on a MemoryError of a body, before it acknowledges (celery/worker/request.py). "
    return replace(after_kill(pattern), why=why + after_kill(pattern).why)


def after_warm_shutdown(pattern: str) -> Prediction:
    why = "SIGTERM lets running bodies finish and leaves the rest in the queue."
    if pattern in LATE:
        # Found by this lab: see docs/explanation/lab-findings.md.
        why += (
            " But a job whose start the main process has not noticed yet is dropped "
            "(celery/concurrency/asynpool.py flush): its message is not acknowledged, and the job runs again."
        )
        return predict(pattern, why, lost=False)
    return predict(pattern, why, lost=False, twice=False)


def after_cold_shutdown(pattern: str) -> Prediction:
    if pattern in EARLY:
        why = "SIGQUIT stops the running bodies; their messages were acknowledged before, so a charge can be lost."
        return predict(pattern, why, twice=False)
    if pattern in LATE:
        why = "SIGQUIT requeues the messages of the running bodies: a body stopped after its charge charges again."
        return predict(pattern, why, lost=False)
    return predict(pattern, "SIGQUIT requeues the messages of the running bodies. " + ONCE_AGAIN[pattern])


def under_load(pattern: str, broker: BrokerKind = REDIS) -> Prediction:
    """Kills at random moments: what a kill hits is a matter of chance, so nothing must be seen."""
    if pattern in EARLY:
        why = "A job in its body was acknowledged, and is lost with its worker."
        if pattern == "claim_first":
            return predict(pattern, why)
        return Prediction("open", why + " A body whose acknowledgement was not sent yet runs again.")
    if pattern == "acks_late" and broker.loses_fetched:
        why = "A job in its body runs again; a message that Redis had popped and the worker had not recorded is lost."
        return Prediction("open", why)
    if pattern in LATE:
        return predict(pattern, "A job in its body, or unacknowledged, is redelivered and may run again.", lost=False)
    return predict(pattern, ONCE_AGAIN[pattern])


_BEFORE_EFFECT = {"claimed", "started", "effect_begun"}


def after_kill_at_point(pattern: str, point: str, broker: BrokerKind) -> Prediction:
    """A SIGKILL exactly there; with early acknowledgement after it was sent, except at ``acking``."""
    if point == "fetched" and not broker.loses_fetched:
        why = (
            "The broker keeps a delivered message until it is acknowledged, and redelivers it when the worker is dead."
        )
        if pattern in EARLY:
            why += " An earlier job that is acknowledged and running is lost with its worker."
            return predict(pattern, why, twice=False)
        return predict(pattern, why, lost=False)
    if point == "fetched":
        why = "Redis has popped the message and the worker has not recorded it: it is lost (kombu QoS.append)."
        if pattern in EARLY:
            return predict(pattern, why, lost=True, twice=False)
        if pattern == "acks_late":
            return predict(pattern, why, lost=True)
        return predict(pattern, why + " The outbox sees that it was never started and publishes it again.", lost=False)
    if pattern in EARLY:
        if point == "acking":
            if pattern == "claim_first":
                return predict(pattern, "The message is redelivered, and stops at the claim.", twice=False)
            why = "The body has run, and the acknowledgement was not sent: the message is redelivered, and the body runs again."
            return predict(pattern, why, twice=True)
        if point in _BEFORE_EFFECT:
            why = (
                _CLAIMED
                if pattern == "claim_first"
                else "The message is acknowledged, and the body has had no effect yet."
            )
            return predict(pattern, why, lost=True, twice=False)
        return predict(pattern, "The effect has happened, or another delivery follows.", twice=False)
    if (pattern, point) == ("outbox", "acking"):
        why = "The body has run and its end is in the outbox: the message is redelivered, and the copy is suppressed."
        return predict(pattern, why, lost=False, twice=False)
    if pattern in LATE:
        if point in {"effect_done", "returned", "acking"}:
            return predict(
                pattern,
                "The effect has happened, the message is redelivered, and the effect happens again.",
                lost=False,
                twice=True,
            )
        return predict(
            pattern, "There was no effect yet, or the message is acknowledged: one effect in the end.", lost=False
        )
    return predict(pattern, ONCE_AGAIN[pattern])


def after_kills_at_all_points(pattern: str, fault: str, broker: BrokerKind) -> Prediction:
    """Each victim at another point."""
    both = {DUPLICATED, LOST}
    windows = {"acks_early": both, "acks_late": both, "claim_first": {LOST}, "outbox": {DUPLICATED}}
    seen = windows.get(pattern, set())
    if pattern == "acks_late" and not broker.loses_fetched:
        seen = seen - {LOST}
    if fault == "kill-child":  # main's windows are not among its points
        seen = seen - {"acks_early": {DUPLICATED}, "acks_late": {LOST}}.get(pattern, set())
    why = "Kills at every point of a task's life: the prediction of each point is in its own cell."
    return predict(pattern, why, lost=LOST in seen or None, twice=DUPLICATED in seen or None)
