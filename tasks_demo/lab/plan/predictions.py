"""Predicts what each pattern does under each fault and at each point, and why. A run that differs is a finding.

Two facts about Celery explain most of it (docs/explanation/lab.md): an early-acknowledged message is delivered again if main dies
before it has sent the acknowledgement of a body that already runs, and a message that Redis has handed out is lost if
main dies before it has recorded it. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from tasks_demo.core.semantics import PROMISES
from tasks_demo.lab import controls
from tasks_demo.lab.plan import broker_predictions, connection_predictions
from tasks_demo.lab.plan.brokers import KINDS, REDIS, BrokerKind
from tasks_demo.lab.plan.combined import PLUS, predict_both
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.outcomes import DUPLICATED, EARLY, LATE, LOST, ONCE, Prediction, predict

if TYPE_CHECKING:
    from tasks_demo.lab.controls.control import Control

_ONCE_AGAIN = {
    "dedup_lock": "The message is redelivered, and the next worker waits for the dead holder's lease; the bank knows the key.",
    "inbox": "The message is redelivered; booking and inbox entry were committed together, or neither was.",
}
_CLAIMED = "The durable claim stops any second delivery; a job that died after its claim is not done."


def _healthy(pattern: str) -> Prediction:
    return predict(
        pattern,
        "No fault: every message is delivered once, so every pattern charges once.",
        lost=False,
        twice=False,
    )


def _killed(pattern: str) -> Prediction:
    """In the body, before and after its effect; with early acknowledgement, after it was sent."""
    if pattern in EARLY:
        why = "The message was acknowledged when the pool accepted it, so there is no copy when the process dies."
        return predict(pattern, why, lost=True, twice=False)
    if pattern in LATE:
        why = "The message is not acknowledged while the body runs: it is redelivered, and what was charged is charged again."
        return predict(pattern, why, lost=False, twice=True)
    return predict(pattern, _ONCE_AGAIN[pattern])


def _warm(pattern: str) -> Prediction:
    why = "SIGTERM lets running bodies finish and leaves the rest in the queue."
    if pattern in LATE:
        # Found by this lab: see docs/explanation/lab.md.
        why += (
            " But a pool process whose start the main process has not noticed yet is forgotten "
            "(celery/concurrency/asynpool.py flush): its message is not acknowledged, and runs again."
        )
        return predict(pattern, why, lost=False)
    return predict(pattern, why, lost=False, twice=False)


def _cold(pattern: str) -> Prediction:
    if pattern in EARLY:
        why = "SIGQUIT stops the running bodies; their messages were acknowledged before, so a charge can be lost."
        return predict(pattern, why, twice=False)
    if pattern in LATE:
        why = "SIGQUIT requeues the messages of the running bodies: a body stopped after its charge charges again."
        return predict(pattern, why, lost=False)
    return predict(pattern, "SIGQUIT requeues the messages of the running bodies. " + _ONCE_AGAIN[pattern])


def _overtaken(pattern: str, what: str) -> Prediction:
    if pattern in EARLY:
        return predict(
            pattern, f"{what}; but the message is acknowledged, so there is no other copy.", lost=False, twice=False
        )
    if pattern == "outbox":
        why = f"{what}: Redis redelivers the message; its row names a live worker that has started it, and the copy stops."
        return predict(pattern, why, lost=False, twice=False)
    if pattern in LATE:
        return predict(pattern, f"{what}: Redis redelivers the message, and two bodies run.", lost=False, twice=True)
    if pattern == "dedup_lock":
        why = f"{what}: Redis redelivers the message; the copy is deferred, or takes over and fences the first."
        return predict(pattern, why)
    return predict(pattern, f"{what}: the copy waits for the first transaction, finds its entry and stops.")


def _not_overtaken(pattern: str, what: str) -> Prediction:
    why = f"{what}; but its worker keeps its connection, so the broker redelivers nothing."
    if pattern == "dedup_lock":
        return predict(
            pattern, why + " A job that lost its lease meanwhile is delivered again, and the bank knows the key."
        )
    return predict(pattern, why, lost=False, twice=False)


def _clicked_twice(pattern: str) -> Prediction:
    if pattern in {"acks_early", *LATE}:
        return predict(pattern, "Two task IDs are two jobs: nothing compares their operations.", twice=True)
    return predict(
        pattern, "Both task IDs have one operation key: the second finds it completed.", lost=False, twice=False
    )


def _publisher_died(pattern: str) -> Prediction:
    if pattern == "outbox":
        return predict(pattern, "The message was committed with the order; the relay publishes it later.", lost=False)
    why = "on_commit publishes after the commit: a publisher that dies in between leaves an order without a job."
    return predict(pattern, why, lost=True, twice=False)


def _poisoned(pattern: str) -> Prediction:
    if pattern in EARLY:
        return predict(pattern, "It crashes once, and there is no other copy.", lost=True, twice=False)
    return predict(pattern, "It is redelivered until its attempts are used up, then it is parked; the others are done.")


def _answer_lost(pattern: str) -> Prediction:
    if pattern in EARLY:
        return predict(pattern, "The debit was booked; the job fails and is not retried.", lost=False, twice=False)
    if pattern in LATE:
        return predict(pattern, "The debit was booked; the job does not know it and retries.", lost=False, twice=True)
    return predict(pattern, "The job retries with the same key, and the bank repeats its first response.")


def _among_hostile(pattern: str) -> Prediction:
    why = (
        "Each hostile message ends somewhere, and the next job is done. One has the task ID of a job that is done, and "
    )
    if pattern in {"acks_early", *LATE}:  # the outbox knows its copies by a header
        return predict(pattern, why + "other arguments: nothing compares them, so it charges, too.", twice=True)
    return predict(pattern, why + "it stops before the body: its operation is completed.", twice=False)


def _under_load(pattern: str, broker: BrokerKind = REDIS) -> Prediction:
    """Kills at random moments: what a kill hits is a matter of chance, so nothing must be seen."""
    if pattern in EARLY:
        why = "What was in a body was acknowledged, and is lost with its worker."
        if pattern == "claim_first":
            return predict(pattern, why)
        return Prediction("open", why + " A body whose acknowledgement was not sent yet runs again.")
    if pattern == "acks_late" and broker.loses_fetched:
        why = "What was in a body runs again; a message that Redis had handed out and the worker had not recorded is lost."
        return Prediction("open", why)
    if pattern in LATE:
        return predict(
            pattern, "What was in a body or unacknowledged is delivered again, and may run again.", lost=False
        )
    return predict(pattern, _ONCE_AGAIN[pattern])


_TOO_LONG = {
    "stop": "The process is stopped for longer than lease and visibility timeout",
    "slow": "The body works for longer than the visibility timeout",
}
#: Redis is killed and finds its messages again.
_KEPT = ("broker-kill-always", "broker-kill-everysec")
_OUTAGES = [str(fault) for fault in Fault if fault.outage]
_DISTURBANCES = [str(fault) for fault in Fault if fault.of_connection]
_BY_FAULT: dict[str, Callable[[str], Prediction]] = {
    "none": _healthy,
    "kill-child": _killed,
    "kill-main": _killed,
    "kill-group": _killed,
    "term": _warm,
    "quit": _cold,
    **{fault: partial(_overtaken, what=what) for fault, what in _TOO_LONG.items()},
    "poison": _poisoned,
    "lost-response": _answer_lost,
    "double-publish": _clicked_twice,
    "publisher-crash": _publisher_died,
    "hostile": _among_hostile,
    "broker-kill-always": partial(broker_predictions.killed, kept=True),
    "broker-kill-everysec": partial(broker_predictions.killed, kept=True),
    "broker-kill-off": partial(broker_predictions.killed, kept=False),
    "broker-flush": partial(broker_predictions.killed, kept=False),
    **{fault: partial(broker_predictions.in_outage, full=fault != Fault.BROKER_READ_ONLY) for fault in _OUTAGES},
    **{fault: partial(connection_predictions.disturbed, fault=fault, kind=REDIS) for fault in _DISTURBANCES},
    "load": _under_load,
}

#: On Redis.
PREDICTIONS: dict[tuple[str, str], Prediction] = {
    (pattern, fault): of(pattern)
    for fault, of in _BY_FAULT.items()
    for pattern in (*EARLY, *LATE, *ONCE)
    if (pattern, fault) != ("inbox", "lost-response")
}

_BEFORE_EFFECT = {"claimed", "started", "effect_begun"}


def _at_point(pattern: str, point: str, broker: BrokerKind) -> Prediction:
    """A SIGKILL exactly there; with early acknowledgement after it was sent, except at ``acking``."""
    if point == "fetched" and not broker.loses_fetched:
        why = "The broker still has a message that it has handed out, and delivers it again when the worker is gone."
        if pattern in EARLY:
            why += " An earlier job, acknowledged and running, dies with its worker."
            return predict(pattern, why, twice=False)
        return predict(pattern, why, lost=False)
    if point == "fetched":
        why = "Redis has popped the message and the worker has not recorded it: it is gone (kombu QoS.append)."
        if pattern in EARLY:
            return predict(pattern, why, lost=True, twice=False)
        if pattern == "acks_late":
            return predict(pattern, why, lost=True)
        return predict(pattern, why + " The outbox sees that it was never started and publishes it again.", lost=False)
    if pattern in EARLY:
        if point == "acking":
            if pattern == "claim_first":
                return predict(pattern, "The message is redelivered, and stops at the claim.", twice=False)
            why = "The body has run, the acknowledgement was not sent: the message is redelivered, and the body runs again."
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
        return predict(pattern, "There was no effect yet, or the message is acknowledged: once in the end.", lost=False)
    return predict(pattern, _ONCE_AGAIN[pattern])


def _of_control(control: Control, fault: str, point: str) -> Prediction:
    """What its own file says."""
    for exposure in control.exposures:
        if (exposure.fault, exposure.point) == (fault, point):
            forbidden = {what for what, count in ((LOST, 0), (DUPLICATED, 2)) if count not in control.believed.effects}
            seen = {exposure.shows} - {""}
            return Prediction(
                "broken" if seen & forbidden else "held", control.why, frozenset(seen), frozenset(forbidden - seen)
            )
    return Prediction("held", "Not predicted by its own file.")


def prediction(
    pattern: str, fault: str, point: str = "", *, clicks: int = 1, keyless: bool = False, broker: str = REDIS.name
) -> Prediction:
    """Return the prediction for a cell, of a pattern or a control.

    ``clicks``: task IDs per operation; ``keyless``: the bank does not get the key.

    A pattern or fault outside the table is predicted to keep its promise.
    """
    if (control := controls.find(pattern)) is not None:
        return _of_control(control, fault, point)
    if PLUS in fault:
        one, other = (
            prediction(pattern, part, point, clicks=clicks, keyless=keyless, broker=broker)
            for part in fault.split(PLUS)
        )
        return predict_both(pattern, one, other)
    kind = KINDS.get(broker, REDIS)
    if clicks > 1 and pattern in {"acks_early", *LATE}:
        return _clicked_twice(pattern)
    if fault == "load" and pattern in PROMISES:
        return _under_load(pattern, kind)
    killed = fault in {"kill-child", "kill-main", "kill-group"}
    if keyless and pattern == "dedup_lock" and killed and point in {"", "mixed", "effect_done"}:
        why = "Between the debit and the completed marker the debit is not recorded on our side."
        return predict(pattern, why, twice=True)
    if pattern in PROMISES and point and killed:
        if point == "mixed":
            both = {DUPLICATED, LOST}
            windows = {"acks_early": both, "acks_late": both, "claim_first": {LOST}, "outbox": {DUPLICATED}}
            seen = windows.get(pattern, set())
            if pattern == "acks_late" and not kind.loses_fetched:
                seen = seen - {LOST}
            if fault == "kill-child":  # main's windows are not among its points
                seen = seen - {"acks_early": {DUPLICATED}, "acks_late": {LOST}}.get(pattern, set())
            why = "Kills at every point of a task's life: the prediction of each point is in its own cell."
            return predict(pattern, why, lost=LOST in seen or None, twice=DUPLICATED in seen or None)
        return _at_point(pattern, point, kind)
    if fault in _DISTURBANCES and pattern in PROMISES:
        return connection_predictions.disturbed(pattern, fault, kind, point)
    known = PREDICTIONS.get((pattern, fault))
    if known is not None and fault in _TOO_LONG and not kind.times_out:
        known = _not_overtaken(pattern, _TOO_LONG[fault])
    if known is not None and fault in _OUTAGES and kind is not REDIS:
        known = broker_predictions.outlasted(pattern)
    if known is not None and fault in _KEPT and kind is not REDIS:
        known = broker_predictions.restarted(pattern)
    if known is None:
        return Prediction("held", "Not measured before: a pattern is predicted to keep its promise.")
    return Prediction(known.outcome, known.why, frozenset(), known.never) if point else known
