"""Which jobs of the demo meet a fault that needs a certain request, and where a victim is held until it is made. Pure."""

from __future__ import annotations

from tasks_demo.core.lifecycle import Point
from tasks_demo.lab.plan.faults import Fault

#: Where the victim of a fault that disturbs this request is held until its proxy waits for it. A publisher is not held.
HELD_AT = {"commit": Point.EFFECT_DONE, "claim": Point.RECEIVED}
#: Patterns whose jobs make the request, and what the others do not do; a request that is not here: all make it.
_MADE_BY = {
    "commit": (("inbox",), "commits no effect"),
    "claim": (("claim_first", "outbox", "dedup_lock"), "makes no claim of its own"),
}


def uses_database(pattern: str, fault: Fault) -> bool:
    """Whether it is a request to the database of the jobs' tables."""
    return fault.disturbed_request == "commit" or (fault.disturbed_request == "claim" and pattern != "dedup_lock")


def why_never(pattern: str, fault: Fault) -> str:
    """What the demo's job of this pattern does not do, so that the fault cannot happen to it; "" if it can."""
    if fault is Fault.LOST_RESPONSE:
        return "calls no bank" if pattern == "inbox" else ""
    patterns, missing = _MADE_BY.get(fault.disturbed_request, ((pattern,), ""))
    return "" if pattern in patterns else missing
