"""What the screens say: marks and meanings of verdicts, promises in plain words, and what each kind of event is."""

from __future__ import annotations

from dataclasses import dataclass

from tasks_demo.models import Tally
from tasks_demo.semantics import PROMISES, Semantics


@dataclass(frozen=True, slots=True)
class Badge:
    """A verdict as a sign: a mark and a word, so that colour is never the only carrier. ``tone`` names the colour."""

    tone: str
    mark: str
    word: str
    meaning: str


VERDICTS: dict[str, Badge] = {
    Tally.Verdict.OK.value: Badge("ok", "✓", "ok", "one effect"),
    Tally.Verdict.RECOVERED.value: Badge("recovered", "↻", "recovered", "two or more deliveries, one effect"),
    Tally.Verdict.LOST.value: Badge("lost", "∅", "lost", "published, all is quiet, and no effect"),
    Tally.Verdict.DUPLICATED.value: Badge("duplicated", "⇉", "duplicated", "two or more effects"),
    Tally.Verdict.PARKED.value: Badge("lost", "‖", "parked", "its worker died each time: it waits in the quarantine"),
    Tally.Verdict.UNRESOLVED.value: Badge(
        "unresolved", "…", "unresolved", "not at its end yet, or evidence is missing"
    ),
}
BROKEN = Badge("broken", "✗", "promise broken", "the pattern promised that this cannot happen")

_PROMISES: dict[Semantics, str] = {
    Semantics.AT_MOST_ONCE: "at most one execution and at most one effect; the effect may be lost.",
    Semantics.AT_LEAST_ONCE: "at least one effect; it may happen more than once.",
    Semantics.EFFECTIVELY_ONCE: "exactly one effect, however often the task is delivered.",
}

KINDS: dict[str, str] = {
    "published": "the broker confirmed that it has the message",
    "fetched": "popped from the broker, which does not know yet by whom (seen in the lab only)",
    "received": "the broker handed the message to a worker",
    "claimed": "the pattern took the operation",
    "started": "the body runs next: one execution",
    "effect_begun": "the body is about to change the outside world",
    "effect_done": "the outside world confirmed the change",
    "completed": "the pattern's completed marker is stored",
    "returned": "the body and its pattern are through",
    "acking": "about to be acknowledged (seen in the lab only)",
    "acked": "the worker acknowledged the message",
    "suppressed": "already completed: the body was not run",
    "deferred": "put back for later: another worker holds the operation",
    "lease_lost": "the worker learnt that it no longer holds the operation",
    "fenced": "a late write was refused",
    "failed": "the body, or its pattern, raised",
    "retried": "the task asked to be published again",
    "rejected": "the worker gave the message back, or could not read it",
    "quarantined": "parked after too many attempts",
    "effect": "one debit in the bank's own books, or one booking in the shop's",
    "settled": "all was quiet and the books were read",
}


def badge(verdict: str) -> Badge:
    """The sign of a verdict; one that is not known shows as itself, in the tone of unresolved."""
    return VERDICTS.get(verdict) or Badge("unresolved", "?", verdict, "")


def promise(pattern: str) -> str:
    """The promise of a pattern in one sentence."""
    found = PROMISES.get(pattern)
    if found is None:
        return "Its task has none of our patterns: nothing was promised."
    return f"{pattern} is {found.semantics}: {_PROMISES[found.semantics]}"


def counted(count: int, thing: str, things: str = "") -> str:
    """``1 effect``, ``2 effects``, ``no effect``."""
    if count == 0:
        return f"no {thing}"
    return f"{count} {thing if count == 1 else things or thing + 's'}"


def times(count: int) -> str:
    """How often, in words."""
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")
