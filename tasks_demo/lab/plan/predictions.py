"""Predicts what each pattern does under each fault and at each point, and why. A run that differs is a finding.

Two facts about Celery explain most of it (docs/explanation/lab.md): an early-acknowledged message is delivered again if main dies
before it has sent the acknowledgement of a body that already runs, and a message that Redis has handed out is lost if
main dies before it has recorded it. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks_demo.core.semantics import PROMISES

LOST, DUPLICATED = "lost", "duplicated"
_SEEN = {LOST, DUPLICATED}


@dataclass(frozen=True, slots=True)
class Prediction:
    """``outcome``: whether the pattern's promise holds; a loss that the promise allows does not break it.

    :param expect: phenomena that must be seen, or the lab is blind.
    :param never: phenomena that must not be seen, even where the promise would allow them.
    """

    outcome: str
    why: str
    expect: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.outcome not in {"held", "broken"}:
            raise ValueError(f"{self.outcome!r}: a prediction is held or broken")
        if not self.expect | self.never <= _SEEN or self.expect & self.never:
            raise ValueError("expect and never name lost or duplicated, and not the same one")


EARLY = ("acks_early", "claim_first")
LATE = ("acks_late", "outbox")
ONCE = ("dedup_lock", "inbox")


def _predict(pattern: str, why: str, *, lost: bool | None = None, twice: bool | None = None) -> Prediction:
    """True: must be seen. False: must not be seen. None: may be seen if the promise allows it."""
    effects = PROMISES[pattern].effects
    expect = {what for what, seen in ((LOST, lost), (DUPLICATED, twice)) if seen}
    forbidden = {what for what, count in ((LOST, 0), (DUPLICATED, 2)) if count not in effects}
    never = {what for what, seen in ((LOST, lost), (DUPLICATED, twice)) if seen is False} | (forbidden - expect)
    return Prediction("broken" if expect & forbidden else "held", why, frozenset(expect), frozenset(never))


_ONCE_AGAIN = {
    "dedup_lock": "The message is redelivered, and the next worker waits for the dead holder's lease; the bank knows the key.",
    "inbox": "The message is redelivered; booking and inbox entry were committed together, or neither was.",
}
_CLAIMED = "The durable claim stops any second delivery; a job that died after its claim is not done."


def _healthy(pattern: str) -> Prediction:
    return _predict(
        pattern,
        "No fault: every message is delivered once, so every pattern charges once.",
        lost=False,
        twice=False,
    )


def _killed(pattern: str) -> Prediction:
    """In the body, before and after its effect; with early acknowledgement, after it was sent."""
    if pattern in EARLY:
        why = "The message was acknowledged when the pool accepted it, so there is no copy when the process dies."
        return _predict(pattern, why, lost=True, twice=False)
    if pattern in LATE:
        why = "The message is not acknowledged while the body runs: it is redelivered, and what was charged is charged again."
        return _predict(pattern, why, lost=False, twice=True)
    return _predict(pattern, _ONCE_AGAIN[pattern])


def _warm(pattern: str) -> Prediction:
    why = "SIGTERM lets running bodies finish and leaves the rest in the queue."
    if pattern in LATE:
        # Found by this lab: see docs/explanation/lab.md.
        why += (
            " But a pool process whose start the main process has not noticed yet is forgotten "
            "(celery/concurrency/asynpool.py flush): its message is not acknowledged, and runs again."
        )
        return _predict(pattern, why, lost=False)
    return _predict(pattern, why, lost=False, twice=False)


def _cold(pattern: str) -> Prediction:
    if pattern in EARLY:
        why = "SIGQUIT stops the running bodies; their messages were acknowledged before, so a charge can be lost."
        return _predict(pattern, why, twice=False)
    if pattern in LATE:
        why = "SIGQUIT requeues the messages of the running bodies: a body stopped after its charge charges again."
        return _predict(pattern, why, lost=False)
    return _predict(pattern, "SIGQUIT requeues the messages of the running bodies. " + _ONCE_AGAIN[pattern])


def _overtaken(pattern: str, what: str) -> Prediction:
    if pattern in EARLY:
        return _predict(
            pattern, f"{what}; but the message is acknowledged, so there is no other copy.", lost=False, twice=False
        )
    if pattern == "outbox":
        why = f"{what}: Redis redelivers the message; its row names a live worker that has started it, and the copy stops."
        return _predict(pattern, why, lost=False, twice=False)
    if pattern in LATE:
        return _predict(pattern, f"{what}: Redis redelivers the message, and two bodies run.", lost=False, twice=True)
    if pattern == "dedup_lock":
        why = f"{what}: Redis redelivers the message; the copy is deferred, or takes over and fences the first."
        return _predict(pattern, why)
    return _predict(pattern, f"{what}: the copy waits for the first transaction, finds its entry and stops.")


def _clicked_twice(pattern: str) -> Prediction:
    if pattern in {"acks_early", *LATE}:
        return _predict(pattern, "Two task IDs are two jobs: nothing compares their operations.", twice=True)
    return _predict(
        pattern, "Both task IDs have one operation key: the second finds it completed.", lost=False, twice=False
    )


def _publisher_died(pattern: str) -> Prediction:
    if pattern == "outbox":
        return _predict(pattern, "The message was committed with the order; the relay publishes it later.", lost=False)
    why = "on_commit publishes after the commit: a publisher that dies in between leaves an order without a job."
    return _predict(pattern, why, lost=True, twice=False)


def _poisoned(pattern: str) -> Prediction:
    if pattern in EARLY:
        return _predict(pattern, "It crashes once, and there is no other copy.", lost=True, twice=False)
    return _predict(
        pattern, "It is redelivered until its attempts are used up, then it is parked; the others are done."
    )


def _answer_lost(pattern: str) -> Prediction:
    if pattern in EARLY:
        return _predict(pattern, "The debit was booked; the job fails and is not retried.", lost=False, twice=False)
    if pattern in LATE:
        return _predict(pattern, "The debit was booked; the job does not know it and retries.", lost=False, twice=True)
    return _predict(pattern, "The job retries with the same key, and the bank repeats its first response.")


_BY_FAULT = {
    "none": _healthy,
    "kill-child": _killed,
    "kill-main": _killed,
    "kill-group": _killed,
    "term": _warm,
    "quit": _cold,
    "stop": lambda pattern: _overtaken(pattern, "The process is stopped for longer than lease and visibility timeout"),
    "slow": lambda pattern: _overtaken(pattern, "The body works for longer than the visibility timeout"),
    "poison": _poisoned,
    "lost-response": _answer_lost,
    "double-publish": _clicked_twice,
    "publisher-crash": _publisher_died,
}

PREDICTIONS: dict[tuple[str, str], Prediction] = {
    (pattern, fault): predict(pattern)
    for fault, predict in _BY_FAULT.items()
    for pattern in (*EARLY, *LATE, *ONCE)
    if (pattern, fault) != ("inbox", "lost-response")
}

_BEFORE_EFFECT = {"claimed", "started", "effect_begun"}


def _at_point(pattern: str, point: str) -> Prediction:
    """A SIGKILL exactly there; with early acknowledgement after it was sent, except at ``acking``."""
    if point == "fetched":
        why = "Redis has popped the message and the worker has not recorded it: it is gone (kombu QoS.append)."
        if pattern in EARLY:
            return _predict(pattern, why, lost=True, twice=False)
        if pattern == "acks_late":
            return _predict(pattern, why, lost=True)
        return _predict(pattern, why + " The outbox sees that it was never started and publishes it again.", lost=False)
    if pattern in EARLY:
        if point == "acking":
            if pattern == "claim_first":
                return _predict(pattern, "The message is redelivered, and stops at the claim.", twice=False)
            why = "The body has run, the acknowledgement was not sent: the message is redelivered, and the body runs again."
            return _predict(pattern, why, twice=True)
        if point in _BEFORE_EFFECT:
            why = (
                _CLAIMED
                if pattern == "claim_first"
                else "The message is acknowledged, and the body has had no effect yet."
            )
            return _predict(pattern, why, lost=True, twice=False)
        return _predict(pattern, "The effect has happened, or another delivery follows.", twice=False)
    if (pattern, point) == ("outbox", "acking"):
        why = "The body has run and its end is in the outbox: the message is redelivered, and the copy is suppressed."
        return _predict(pattern, why, lost=False, twice=False)
    if pattern in LATE:
        if point in {"effect_done", "returned", "acking"}:
            return _predict(
                pattern,
                "The effect has happened, the message is redelivered, and the effect happens again.",
                lost=False,
                twice=True,
            )
        return _predict(
            pattern, "There was no effect yet, or the message is acknowledged: once in the end.", lost=False
        )
    return _predict(pattern, _ONCE_AGAIN[pattern])


def prediction(pattern: str, fault: str, point: str = "", *, clicks: int = 1, keyless: bool = False) -> Prediction:
    """Return the prediction for a cell. ``clicks``: task IDs per operation; ``keyless``: the bank does not get the key.

    A pattern or fault outside the table is predicted to keep its promise.
    """
    if clicks > 1 and pattern in {"acks_early", *LATE}:
        return _clicked_twice(pattern)
    killed = fault in {"kill-child", "kill-main", "kill-group"}
    if keyless and pattern == "dedup_lock" and killed and point in {"", "mixed", "effect_done"}:
        why = "Between the debit and the completed marker the debit is not recorded on our side."
        return _predict(pattern, why, twice=True)
    if pattern in PROMISES and point and killed:
        if point == "mixed":
            windows = {
                "acks_early": {DUPLICATED, LOST},
                "acks_late": {LOST, DUPLICATED},
                "claim_first": {LOST},
                "outbox": {DUPLICATED},
            }
            seen = windows.get(pattern, set())
            if fault == "kill-child":  # main's windows are not among its points
                seen = (
                    seen - {DUPLICATED}
                    if pattern == "acks_early"
                    else seen - {LOST}
                    if pattern == "acks_late"
                    else seen
                )
            why = "Kills at every point of a task's life: the prediction of each point is in its own cell."
            return _predict(pattern, why, lost=LOST in seen or None, twice=DUPLICATED in seen or None)
        return _at_point(pattern, point)
    known = PREDICTIONS.get((pattern, fault))
    if known is None:
        return Prediction("held", "Not measured before: a pattern is predicted to keep its promise.")
    return Prediction(known.outcome, known.why, frozenset(), known.never) if point else known
