"""What each pattern is predicted to do under each fault and at each point, and why. The run compares; a wrong
prediction is a finding.

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
    """``outcome`` speaks of the pattern's own promise; a loss that the promise allows does not break it.

    ``expect``: phenomena that must be visible, or the lab is blind. ``never``: phenomena that must not be, even where
    the promise would allow them.
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
    """True: must be seen; False: must not be; None: may be, as far as the promise goes."""
    effects = PROMISES[pattern].effects
    expect = {what for what, seen in ((LOST, lost), (DUPLICATED, twice)) if seen}
    forbidden = {what for what, count in ((LOST, 0), (DUPLICATED, 2)) if count not in effects}
    never = {what for what, seen in ((LOST, lost), (DUPLICATED, twice)) if seen is False} | (forbidden - expect)
    return Prediction("broken" if expect & forbidden else "held", why, frozenset(expect), frozenset(never))


_ONCE_AGAIN = {
    "dedup_lock": "The message comes back, and the next worker waits for the dead holder's lease; the bank knows the key.",
    "inbox": "The message comes back; booking and inbox entry were committed together, or neither was.",
}
_CLAIMED = "The durable claim stops any second delivery; what died after the claim is not done."


def _healthy(pattern: str) -> Prediction:
    return _predict(
        pattern,
        "Nobody is harmed: every message is delivered once, so every pattern charges once.",
        lost=False,
        twice=False,
    )


def _killed(pattern: str) -> Prediction:
    """In the body, before and after its effect; of the early ones after the acknowledgement."""
    if pattern in EARLY:
        why = "The message was acknowledged when the pool took it, so nobody holds a copy when the process dies."
        return _predict(pattern, why, lost=True, twice=False)
    if pattern in LATE:
        why = (
            "The message is not acknowledged while the body runs: it comes back, and what was charged is charged again."
        )
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
        why = "SIGQUIT puts the messages of the running bodies back: a body stopped after its charge charges again."
        return _predict(pattern, why, lost=False)
    return _predict(pattern, "SIGQUIT puts the messages of the running bodies back. " + _ONCE_AGAIN[pattern])


def _overtaken(pattern: str, what: str) -> Prediction:
    if pattern in EARLY:
        return _predict(
            pattern, f"{what}; but the message is acknowledged, and nobody else has it.", lost=False, twice=False
        )
    if pattern == "outbox":
        why = f"{what}: Redis hands the message out again; a living worker has begun it, says its row, and the copy stops."
        return _predict(pattern, why, lost=False, twice=False)
    if pattern in LATE:
        return _predict(
            pattern, f"{what}: Redis hands the message out again, and two bodies run.", lost=False, twice=True
        )
    if pattern == "dedup_lock":
        why = f"{what}: Redis hands the message out again; the copy is deferred, or takes over and fences the first."
        return _predict(pattern, why)
    return _predict(pattern, f"{what}: the copy waits for the first one's transaction, finds its entry and stops.")


def _clicked_twice(pattern: str) -> Prediction:
    if pattern in {"acks_early", *LATE}:
        return _predict(pattern, "Two task IDs are two jobs: nothing compares their operation.", twice=True)
    return _predict(
        pattern, "Both task IDs carry one operation key: the second finds it done.", lost=False, twice=False
    )


def _publisher_died(pattern: str) -> Prediction:
    if pattern == "outbox":
        return _predict(pattern, "The message was committed with the order; the relay publishes it later.", lost=False)
    why = "on_commit publishes after the commit: a publisher that dies in between leaves an order without a job."
    return _predict(pattern, why, lost=True, twice=False)


def _poisoned(pattern: str) -> Prediction:
    if pattern in EARLY:
        return _predict(pattern, "It crashes once, and nobody holds a copy.", lost=True, twice=False)
    return _predict(pattern, "It comes back until its attempts are used up, then it is parked; the others are done.")


def _answer_lost(pattern: str) -> Prediction:
    if pattern in EARLY:
        return _predict(pattern, "The debit was booked; the job fails and is not tried again.", lost=False, twice=False)
    if pattern in LATE:
        return _predict(
            pattern, "The debit was booked; the job does not know it and tries again.", lost=False, twice=True
        )
    return _predict(pattern, "The job tries again with the same key, and the bank repeats its first answer.")


_BY_FAULT = {
    "none": _healthy,
    "kill-child": _killed,
    "kill-main": _killed,
    "kill-group": _killed,
    "term": _warm,
    "quit": _cold,
    "stop": lambda pattern: _overtaken(pattern, "The process sleeps for longer than lease and visibility timeout"),
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
    """A SIGKILL exactly there; of early-acknowledging bodies after the acknowledgement, but for ``acking``."""
    if point == "fetched":
        why = "Redis has handed the message out and nobody has recorded it: it is gone (kombu QoS.append)."
        if pattern in EARLY:
            return _predict(pattern, why, lost=True, twice=False)
        if pattern == "acks_late":
            return _predict(pattern, why, lost=True)
        return _predict(pattern, why + " The outbox sees that it was never started and publishes it again.", lost=False)
    if pattern in EARLY:
        if point == "acking":
            if pattern == "claim_first":
                return _predict(pattern, "The message is delivered again, and stops at the claim.", twice=False)
            why = "The body has run, the acknowledgement was not sent: the message is delivered again, and runs again."
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
        why = "The body has run and its end is in the outbox: the message comes back, and the copy is suppressed."
        return _predict(pattern, why, lost=False, twice=False)
    if pattern in LATE:
        if point in {"effect_done", "returned", "acking"}:
            return _predict(
                pattern,
                "The effect has happened, the message comes back, the effect happens again.",
                lost=False,
                twice=True,
            )
        return _predict(
            pattern, "There was no effect yet, or the message is acknowledged: once in the end.", lost=False
        )
    return _predict(pattern, _ONCE_AGAIN[pattern])


def prediction(pattern: str, fault: str, point: str = "", *, clicks: int = 1, keyless: bool = False) -> Prediction:
    """The prediction for a cell; ``clicks``: task IDs per operation; ``keyless``: the bank is not told the key.

    A pattern or fault outside the table is predicted to keep its promise: that is what a promise is.
    """
    if clicks > 1 and pattern in {"acks_early", *LATE}:
        return _clicked_twice(pattern)
    killed = fault in {"kill-child", "kill-main", "kill-group"}
    if keyless and pattern == "dedup_lock" and killed and point in {"", "mixed", "effect_done"}:
        why = "Between the debit and the completed marker nobody knows that it was made."
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
            why = "Kills at every point of a task's life: what each point does is in the cells of that point."
            return _predict(pattern, why, lost=LOST in seen or None, twice=DUPLICATED in seen or None)
        return _at_point(pattern, point)
    known = PREDICTIONS.get((pattern, fault))
    if known is None:
        return Prediction("held", "Not measured before: a pattern is predicted to keep its promise.")
    return Prediction(known.outcome, known.why, frozenset(), known.never) if point else known
