"""Explains what became of a job: why, and which pattern would have prevented it. Also the patterns in a few words.

The reference pages of the patterns are not in the wheel, so the pages of the dashboard show these texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks_demo.core.semantics import PROMISES, Semantics
from tasks_demo.ledger.models import Outcome, Tally


@dataclass(frozen=True, slots=True)
class Code:
    """How a charge is written with a pattern, line by line: what is imported and declared, the body, and the call."""

    imported: str
    declared: str
    effect: str
    published: str
    signature: str = "def charge(order, customer, amount):"

    def __str__(self) -> str:
        return f"{self.imported}\n\n{self.declared}\n{self.signature}\n    {self.effect}\n\n{self.published}"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern in a few words, and in code. ``reference``: its page in the source of this project."""

    name: str
    semantics: str
    works: str
    needs: str
    code: Code

    @property
    def reference(self) -> str:
        """Path of its reference page in the source of this project."""
        return f"docs/reference/patterns/{self.name}.md"


@dataclass(frozen=True, slots=True)
class Better:
    """The patterns that would have helped, and what they would have done: "it would have been published again"."""

    patterns: list[Pattern]
    outcome: str


def _pattern(
    name: str,
    works: str,
    needs: str,
    declared: str,
    *,
    imported: str = "",
    effect: str = "bank.debit(customer, amount)",
    published: str = "charge.delay(order, customer, 1999)",
) -> Pattern:
    base = declared.removeprefix("@").partition(".")[0]
    imports = imported or f"from tasks_demo.patterns import {base}"
    return Pattern(name, str(PROMISES[name].semantics), works, needs, Code(imports, declared, effect, published))


_KEYED = 'operation=lambda order, **_: f"charge:{order}"'

PATTERNS: dict[str, Pattern] = {
    each.name: each
    for each in (
        _pattern(
            "acks_early",
            "The worker acknowledges the message before the body runs. Nobody delivers it again if the process dies.",
            "Nothing. The effect may be lost.",
            "@AcksEarly.task()",
        ),
        _pattern(
            "claim_first",
            "A row in the database claims the operation before the body runs. A second copy finds the row and stops.",
            "An operation key and the table of claims. The effect may be lost.",
            f"@ClaimFirst.task({_KEYED})",
        ),
        _pattern(
            "acks_late",
            "The worker acknowledges the message after the body has run. If the process dies, the broker delivers it again.",
            "A body that may run twice: setting a state, or a receiver that recognises a repetition.",
            "@AcksLate.task()",
        ),
        _pattern(
            "outbox",
            "The message is a row, committed with the business data. A relay publishes it, and again if it was lost.",
            "A relay process, and a body that may run twice.",
            "@AcksLate.task()",
            imported="from tasks_demo import outbox\nfrom tasks_demo.patterns import AcksLate",
            published="outbox.enqueue(charge, args=(order, customer, 1999))  # in the transaction that saves the order",
        ),
        _pattern(
            "dedup_lock",
            "A lease holds the operation while the body runs, a marker says that it is completed, and the receiver gets the "
            "operation key. A repetition is suppressed here or recognised there.",
            "An operation key, Redis, and a receiver that recognises the key or refuses a stale fence.",
            f"@DedupLock.task({_KEYED})",
            imported="from tasks_demo.patterns import DedupLock, lease",
            effect='bank.debit(customer, amount, key=f"charge:{order}", fence=lease().fence)',
        ),
        _pattern(
            "inbox",
            "The effect and the record that it is done are committed in one transaction. A repetition finds the record.",
            "An operation key, and an effect that is a write to the same database.",
            f"@Inbox.task({_KEYED})",
            effect="Booking.objects.create(order=order, customer=customer, amount=amount)",
        ),
    )
}
_EARLY = frozenset(name for name, promise in PROMISES.items() if promise.semantics is Semantics.AT_MOST_ONCE)
_LATER = ("effect_done", "completed", "returned", "acking")


def why(tally: Tally, killed_at: Sequence[str]) -> str:
    """Explain in one or two sentences what the kills did to this job. Empty if nothing happened that needs an explanation."""
    if not killed_at:
        return _without_a_kill(tally)
    where = f"The kill hit it at {killed_at[0]}" + (f", {len(killed_at)} times in all" if len(killed_at) > 1 else "")
    if killed_at[0] == "fetched":
        return f"{where}: the broker had handed the message out, and no worker had recorded it."
    if tally.verdict == Tally.Verdict.LOST:
        return f"{where}: its message was acknowledged by then, so the broker does not deliver it again."
    if tally.effects > 1:
        return f"{where}: the effect had happened and the message was not acknowledged, so it was delivered and done again."
    if tally.suppressed:
        return f"{where}: the message was delivered again, and the copy found that the work was done."
    if tally.executions > 1:
        return f"{where}: the message was delivered again, and the repetition had no second effect."
    if tally.pattern in _EARLY and killed_at[0] in _LATER:
        return f"{where}: the effect had happened already."
    return f"{where}."


def _without_a_kill(tally: Tally) -> str:
    if tally.effects > 1 and tally.executions <= 1:
        return "More than one task ID of its operation had an effect: nothing compared them."
    if tally.effects > 1 or tally.returned > 1:
        return "It ran again after its effect: it was delivered again, or it retried because it did not know of the effect."
    if tally.abandoned and not tally.effects and not tally.returned:
        return (
            "Its process was killed, by a time limit for example, and its message acknowledged: nobody runs it again."
        )
    if tally.outcome == Outcome.FAILED and not tally.effects:
        return "It failed with its own error, which ends a job: nothing runs it again but a retry of the task, or a person."
    if tally.verdict == Tally.Verdict.LOST:
        return "Its message is gone and no execution of it came to an effect. No fault of the lab is on record."
    return ""


def better(tally: Tally, killed_at: Sequence[str]) -> Better | None:
    """Return what would have prevented the loss or the repetition. None if there was neither, or the end is not known, or the
    body failed with its own error, which no pattern prevents.
    """
    if tally.verdict == Tally.Verdict.DUPLICATED:
        found = Better(_but(tally, "dedup_lock", "inbox"), "it would have had exactly one effect")
    elif tally.verdict != Tally.Verdict.LOST or (tally.outcome == Outcome.FAILED and not killed_at):
        return None
    elif tally.pattern in _EARLY and killed_at[:1] != ["fetched"]:
        found = Better(_but(tally, "acks_late", "dedup_lock", "inbox"), "it would have been delivered again")
    else:
        # A message that the broker has handed out and nobody has recorded is lost with every pattern that does not keep a copy.
        found = Better(_but(tally, "outbox"), "it would have been published again")
    return found if found.patterns else None


def _but(tally: Tally, *names: str) -> list[Pattern]:
    return [PATTERNS[name] for name in names if name != tally.pattern]
