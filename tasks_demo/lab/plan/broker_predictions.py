"""Predicts what each pattern does when the broker is killed, emptied, or takes no writes for a while. Pure."""

from __future__ import annotations

from tasks_demo.lab.plan.outcomes import DUPLICATED, EARLY, LOST, Prediction, predict


def after_redis_kill(pattern: str, kept: bool) -> Prediction:
    """``kept``: whether the messages outlive it. With kombu's stock transport."""
    if kept:
        why = (
            "Redis answers once the message is in the file, so a restart finds it. But a message that Redis has popped, and "
            "whose delivery the kill interrupts, is no longer in the file and was never received."
        )
        if pattern in {*EARLY, "outbox"}:
            return predict(pattern, why, lost=False if pattern == "outbox" else None)
        return Prediction("open", why, excluded=frozenset() if pattern == "acks_late" else frozenset({DUPLICATED}))
    why = "Redis had the messages in memory only, and they are lost."
    if pattern == "outbox":
        return predict(
            pattern,
            why + " The outbox sees that the broker no longer holds them, and publishes them again.",
            lost=False,
        )
    return predict(pattern, why, lost=True)


def after_rabbitmq_kill(pattern: str) -> Prediction:
    """RabbitMQ, with durable queues, persistent messages and confirms."""
    why = (
        "Confirmed messages are in RabbitMQ's files. A message whose acknowledgement it has not received or not written is "
        "redelivered"
    )
    if pattern == "claim_first":
        return predict(pattern, why + ", and stops at the claim.", lost=False, twice=False)
    if pattern == "acks_early":
        return Prediction("open", why + ", and the body runs again.", excluded=frozenset({LOST}))
    if pattern == "outbox":
        return predict(
            pattern, why + "; its row names the end of the job, and the copy stops.", lost=False, twice=False
        )
    if pattern == "acks_late":
        return predict(pattern, why + ", and the body runs again.", lost=False)
    return predict(pattern, why + "; the second finds the operation completed, or waits for its holder.")


def during_outage(pattern: str, full: bool) -> Prediction:
    """With kombu's stock transport. ``full``: it has no memory left, or no disk at its next write, and a message can still
    be popped."""
    why = "Stock kombu does not handle the error, and the worker ends: a job that it could not acknowledge is redelivered."
    if full:
        why += " A message that it pops and cannot record is lost, as in the fetch window."
    if pattern == "claim_first":
        return predict(pattern, f"{why} The durable claim stops the second delivery.", twice=False)
    if pattern == "acks_early":
        return Prediction("open", why, excluded=frozenset() if full else frozenset({LOST}))
    if pattern == "outbox":
        return predict(pattern, why + " Its row names the end of the job, and the copy stops.", lost=False, twice=False)
    if full:
        return Prediction("open", why, excluded=frozenset() if pattern == "acks_late" else frozenset({DUPLICATED}))
    if pattern == "acks_late":
        return predict(pattern, why, lost=False)
    return predict(pattern, f"{why} The second finds the operation completed.")


def after_redis_kill_on_reliable_transport(pattern: str) -> Prediction:
    """Killed, and started again on its file; with the reliable transport."""
    why = "The claim of a message is in the file: an undelivered message is delivered again when Redis is back."
    return predict(pattern, why, lost=False)


def during_outage_on_reliable_transport(pattern: str) -> Prediction:
    """With the reliable transport."""
    why = "The worker keeps running, and acknowledges its finished jobs once Redis accepts writes."
    return predict(pattern, why, lost=False, twice=False)
