"""Predicts what each pattern does under each fault and at each point, and why. A run that differs is a finding.

Two facts about Celery explain most of it (docs/explanation/lab-findings.md). An early-acknowledged message is delivered again if
main dies before it has sent the acknowledgement of a body that already runs. A message that Redis has handed out is lost if main
dies before it has recorded it. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from tasks_demo.core.semantics import PROMISES
from tasks_demo.lab import controls
from tasks_demo.lab.plan import (
    broker_predictions,
    clock_predictions,
    connection_predictions,
    database_predictions,
    kill_predictions,
)
from tasks_demo.lab.plan.brokers import KINDS, REDIS
from tasks_demo.lab.plan.combined import PLUS, predict_both
from tasks_demo.lab.plan.disturbed_requests import why_never
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.outcomes import DUPLICATED, EARLY, LATE, LOST, ONCE, Prediction, predict

if TYPE_CHECKING:
    from tasks_demo.lab.controls.control import Control


def _healthy(pattern: str) -> Prediction:
    return predict(
        pattern,
        "No fault: every message is delivered once, so every pattern charges once.",
        lost=False,
        twice=False,
    )


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
            pattern, why + " A job that lost its lease in the meantime is redelivered, and the bank knows the key."
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
        return predict(pattern, "Its process crashes once, and there is no other copy.", lost=True, twice=False)
    return predict(pattern, "It is redelivered until its attempts are used up, then it is parked; the others are done.")


def _answer_lost(pattern: str) -> Prediction:
    if pattern in EARLY:
        return predict(pattern, "The debit was booked; the job fails and is not retried.", lost=False, twice=False)
    if pattern in LATE:
        return predict(pattern, "The debit was booked; the job does not know it and retries.", lost=False, twice=True)
    return predict(pattern, "The job retries with the same key, and the bank repeats its first response.")


def _among_hostile(pattern: str) -> Prediction:
    why = "Each hostile message comes to an end, and the next job is done. One has the task ID of a job that is done, and "
    if pattern in {"acks_early", *LATE}:  # the outbox knows its copies by a header
        return predict(pattern, why + "other arguments: nothing compares them, so it charges again.", twice=True)
    return predict(pattern, why + "it stops before the body: its operation is completed.", twice=False)


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
    "kill-child": kill_predictions.after_kill,
    "kill-main": kill_predictions.after_kill,
    "kill-group": kill_predictions.after_kill,
    "term": kill_predictions.after_warm_shutdown,
    "quit": kill_predictions.after_cold_shutdown,
    **{fault: partial(_overtaken, what=what) for fault, what in _TOO_LONG.items()},
    "poison": _poisoned,
    "lost-response": _answer_lost,
    "double-publish": _clicked_twice,
    "publisher-crash": _publisher_died,
    "hostile": _among_hostile,
    "broker-kill": broker_predictions.after_rabbitmq_kill,
    "broker-kill-always": partial(broker_predictions.after_redis_kill, kept=True),
    "broker-kill-everysec": partial(broker_predictions.after_redis_kill, kept=True),
    "broker-kill-off": partial(broker_predictions.after_redis_kill, kept=False),
    "broker-flush": partial(broker_predictions.after_redis_kill, kept=False),
    **{fault: partial(broker_predictions.during_outage, full=fault != Fault.BROKER_READ_ONLY) for fault in _OUTAGES},
    "out-of-memory": kill_predictions.after_memory_error,
    "clock-jump": partial(clock_predictions.after_clock_jump, kind=REDIS),
    "database-kill": database_predictions.after_database_kill,
    **{fault: partial(connection_predictions.disturbed_connection, fault=fault, kind=REDIS) for fault in _DISTURBANCES},
    **{
        fault: partial(connection_predictions.disturbed_publication, fault=fault)
        for fault in Fault
        if fault.disturbed_request == "publish"
    },
    **{
        fault: partial(connection_predictions.disturbed_commit, fault=fault)
        for fault in Fault
        if fault.disturbed_request == "commit"
    },
    **{
        fault: partial(connection_predictions.disturbed_claim, fault=fault)
        for fault in Fault
        if fault.disturbed_request == "claim"
    },
    "load": kill_predictions.under_load,
}

#: On Redis.
PREDICTIONS: dict[tuple[str, str], Prediction] = {
    (pattern, fault): of(pattern)
    for fault, of in _BY_FAULT.items()
    for pattern in (*EARLY, *LATE, *ONCE)
    if not why_never(pattern, Fault(fault))
}


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
        return kill_predictions.under_load(pattern, kind)
    killed = fault in {"kill-child", "kill-main", "kill-group"}
    if keyless and pattern == "dedup_lock" and killed and point in {"", "mixed", "effect_done"}:
        why = "Between the debit and the completed marker, only the bank has a record of the debit."
        return predict(pattern, why, twice=True)
    if pattern in PROMISES and point and killed:
        if point == "mixed":
            return kill_predictions.after_kills_at_all_points(pattern, fault, kind)
        return kill_predictions.after_kill_at_point(pattern, point, kind)
    if fault in _DISTURBANCES and pattern in PROMISES:
        return connection_predictions.disturbed_connection(pattern, fault, kind, point)
    if fault == Fault.CLOCK_JUMP and pattern in PROMISES:
        return clock_predictions.after_clock_jump(pattern, kind, point)
    if (fault, point) == (Fault.OUT_OF_MEMORY, "started") and pattern in EARLY:
        return Prediction(
            "open", "The start is recorded and the body has not begun: the delivery is deferred, and starts again."
        )
    known = PREDICTIONS.get((pattern, fault))
    if known is not None and fault in _TOO_LONG and not kind.times_out:
        known = _not_overtaken(pattern, _TOO_LONG[fault])
    if known is not None and fault in _OUTAGES and kind is not REDIS:
        known = broker_predictions.during_outage_on_reliable_transport(pattern)
    if known is not None and fault in _KEPT and kind is not REDIS:
        known = broker_predictions.after_redis_kill_on_reliable_transport(pattern)
    if known is None:
        return Prediction("held", "Not measured before: a pattern is predicted to keep its promise.")
    return Prediction(known.outcome, known.why, frozenset(), known.excluded) if point else known
