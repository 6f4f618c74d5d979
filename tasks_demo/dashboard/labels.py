"""Labels of the pages: marks and meanings of verdicts and outcomes, promises in plain words, and event kinds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from django.utils.html import format_html
from django.utils.safestring import SafeString

from tasks_demo.core.semantics import PROMISES, Semantics
from tasks_demo.ledger.models import Outcome, Tally


@dataclass(frozen=True, slots=True)
class Badge:
    """A verdict or outcome as a mark and a word, so that colour is never the only signal. ``tone`` names the colour."""

    tone: str
    mark: str
    word: str
    meaning: str


def badge_element(badge: Badge) -> SafeString:
    """Return a badge as HTML, as ``admin/tasks_demo/badge.html`` draws it."""
    return format_html(
        '<span class="badge badge-{}" title="{}"><span aria-hidden="true">{}</span> {}</span>',
        badge.tone, badge.meaning, badge.mark, badge.word,
    )  # fmt: skip


VERDICTS: dict[str, Badge] = {
    Tally.Verdict.OK.value: Badge("ok", "✓", "ok", "one effect, or it ended with its own error"),
    Tally.Verdict.RECOVERED.value: Badge("recovered", "↻", "recovered", "two or more deliveries, one effect"),
    Tally.Verdict.LOST.value: Badge(
        "lost",
        "∅",
        "lost",
        "published, all is quiet, no effect, and no error of its own",
    ),
    Tally.Verdict.DUPLICATED.value: Badge(
        "duplicated",
        "⇉",
        "duplicated",
        "two or more effects",
    ),
    Tally.Verdict.PARKED.value: Badge("lost", "‖", "parked", "its worker died each time: it waits in the quarantine"),
    Tally.Verdict.DROPPED.value: Badge(
        "unresolved", "⊘", "dropped", "expired or revoked: nobody wants its effect any more"
    ),
    Tally.Verdict.UNRESOLVED.value: Badge(
        "unresolved", "…", "unresolved", "not at its end yet, or evidence is missing"
    ),
}
#: Meanings of verdicts for tasks without books.
JUDGED_BY_EXECUTIONS: dict[str, str] = {
    Tally.Verdict.OK.value: "it has ended, and its body ran no more than once; nobody counts its effects",
    Tally.Verdict.RECOVERED.value: "delivered or begun again, and its body came to its end once; nobody counts its effects",
    Tally.Verdict.LOST.value: "its process was killed, or no worker could run it, and nobody runs it again",
    Tally.Verdict.DUPLICATED.value: "its body came to its end twice or more, or recorded two or more effects itself",
}
#: Meanings of ok and recovered for a job that ended by itself without an effect, by outcome.
ENDED_ITSELF: dict[str, str] = {
    Outcome.FAILED.value: "it ended with its own error, so no message is missing; it had no effect that is on record",
    Outcome.REJECTED.value: "the task itself turned it down, so no message is missing; it had no effect that is on record",
}
OUTCOMES: dict[str, Badge] = {
    Outcome.WAITING.value: Badge("unresolved", "◦", "waiting", "published, and not begun as far as the ledger knows"),
    Outcome.RUNNING.value: Badge("recovered", "▸", "running", "begun, and no end is on record: it runs, or died"),
    Outcome.RETRYING.value: Badge("recovered", "↺", "retrying", "it failed and asked to be run again"),
    Outcome.SUCCEEDED.value: Badge("ok", "✓", "succeeded", "its body returned, or the work was done already"),
    Outcome.FAILED.value: Badge("lost", "✗", "failed", "its body raised, or its process was killed and Celery gave up"),
    Outcome.EXPIRED.value: Badge("unresolved", "⊘", "expired", "it was too old when a worker got it"),
    Outcome.REVOKED.value: Badge("unresolved", "⊘", "revoked", "somebody revoked it"),
    Outcome.REJECTED.value: Badge("lost", "⊘", "rejected", "no worker could run it, or the task itself turned it down"),
    Outcome.PARKED.value: Badge("lost", "‖", "parked", "it waits in the quarantine for people"),
}
BROKEN = Badge("broken", "✗", "promise broken", "the pattern promised that this cannot happen")

_PROMISES: dict[Semantics, str] = {
    Semantics.AT_MOST_ONCE: "at most one execution and at most one effect; the effect may be lost.",
    Semantics.AT_LEAST_ONCE: "at least one effect, unless its body fails; it may happen more than once.",
    Semantics.EFFECTIVELY_ONCE: "exactly one effect, however often the task is delivered, unless its body fails.",
}

#: Columns of a tally → singular and plural.
COUNTS: dict[str, tuple[str, ...]] = {
    "publications": ("publication",),
    "deliveries": ("delivery", "deliveries"),
    "executions": ("execution",),
    "effects": ("effect",),
    "suppressed": ("copy suppressed", "copies suppressed"),
    "deferred": ("deferral",),
    "fenced": ("write refused", "writes refused"),
    "failed": ("failure",),
    "faults": ("fault",),
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
    "returned": "the body and its pattern have finished",
    "acking": "about to be acknowledged (seen in the lab only)",
    "acked": "the worker acknowledged the message",
    "suppressed": "already completed: the body was not run",
    "deferred": "requeued for later: another worker holds the operation, or something it needs did not answer",
    "lease_lost": "the worker learnt that it no longer holds the operation",
    "fenced": "a late write was refused",
    "failed": "the body, or its pattern, raised",
    "retried": "the task asked to be published again",
    "replaced": "the task published another one under its own task ID",
    "rejected": "the worker dropped the message: it could not run it, or the task rejected it",
    "ignored": "the task asked Celery to forget it: acknowledged, without a result",
    "expired": "dropped because it was too old",
    "revoked": "dropped, or its process killed, because somebody revoked it",
    "quarantined": "parked after too many attempts",
    "effect": "one effect in the books of the outside world",
    "settled": "all was quiet and the books were read",
}


def outcome_badge(outcome: str, verdict: str = "") -> Badge:
    """Return the badge of an outcome. An unknown outcome is shown as it is, in the tone of unresolved.

    A job whose end nobody has seen does not wait or run any more once its books call it lost; nor does it run if it is ok.
    """
    found = OUTCOMES.get(outcome) or Badge("unresolved", "?", outcome, "")
    lost = verdict == Tally.Verdict.LOST and outcome in {Outcome.WAITING, Outcome.RUNNING, Outcome.RETRYING}
    if lost or (verdict == Tally.Verdict.OK and outcome == Outcome.RUNNING):
        return replace(
            found, tone="unresolved", word=f"was {found.word}", meaning="the last on record; no end was seen"
        )
    return found


def badge(verdict: str, *, books: str = "any") -> Badge:
    """Return the badge of a verdict. An unknown verdict is shown as it is. Without ``books`` the meaning refers to executions."""
    found = VERDICTS.get(verdict) or Badge("unresolved", "?", verdict, "")
    return found if books else replace(found, meaning=JUDGED_BY_EXECUTIONS.get(verdict, found.meaning))


def verdict_badge(tally: Tally) -> Badge:
    """Return the badge of a tally's verdict, with what it means for this job."""
    found = badge(tally.verdict, books=tally.books)
    return replace(found, meaning=ENDED_ITSELF[tally.outcome]) if ended_itself(tally) else found


def ended_itself(tally: Tally) -> bool:
    """Return whether it ended without an effect, by its own error or decision, so that no message is missing."""
    judged = tally.verdict in {Tally.Verdict.OK, Tally.Verdict.RECOVERED}
    return judged and not tally.effects and tally.outcome in ENDED_ITSELF


def promise(pattern: str) -> str:
    """Return the promise of a pattern in one sentence."""
    found = PROMISES.get(pattern)
    if found is None:
        return "Its task has none of our patterns: nothing was promised."
    return f"{pattern} is {found.semantics}: {_PROMISES[found.semantics]}"
