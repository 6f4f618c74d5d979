"""Says what became of a job that a worker held when it ended. Pure: a function of the job's events and its tally.

What another worker did is read from the events that were committed after the last of this worker. A worker that is killed loses
its events of the last moments (``ledger.recorder``), so a job may have come further on it than its events tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tasks_demo.core.wording import times
from tasks_demo.dashboard.labels import BROKEN, Badge
from tasks_demo.dashboard.labels import badge as badge_of
from tasks_demo.ledger.models import Event, Tally

#: A delivery came to its end with one of these, in the process that had it.
ENDS = frozenset(
    {"returned", "suppressed", "failed", "rejected", "ignored", "expired", "revoked", "quarantined", "deferred", "retried",
     "replaced"}
)  # fmt: skip

RUN_AGAIN = Badge("recovered", "↻", "run again", "another worker began its body")
ALREADY_DONE = Badge("ok", "✓", "already done", "delivered again, and its body was not run: the work was done")
PARKED = Badge("lost", "‖", "parked", "it waits in the quarantine for people")
DELIVERED_AGAIN = Badge("unresolved", "▸", "delivered again", "another worker has it and has not begun its body")
PUBLISHED_AGAIN = Badge("unresolved", "◦", "published again", "a new copy waits for a worker")
HAD_ENDED = Badge("ok", "✓", "had ended", "its body had come to its end before the worker did")
DROPPED = Badge("unresolved", "⊘", "dropped", "expired, revoked or rejected")
LOST = Badge("lost", "∅", "not run again", "it was acknowledged before it ended: nobody delivers it again")
WAITING = Badge("unresolved", "…", "nobody has it yet", "no worker has received it since")
RUNNING = Badge("recovered", "▸", "running", "its body has begun on this worker")
HELD = Badge("unresolved", "◦", "received", "this worker has it and has not begun its body")
UNKNOWN = Badge("unresolved", "?", "not in the ledger", "the worker held it, and the ledger has no record of it")


@dataclass(frozen=True, slots=True)
class LaterRun:
    """One later execution. ``end``: the kind of event that ended it, or empty."""

    worker: str
    pid: int | None
    at: datetime
    end: str


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one job. ``begun``: its body began on the dead worker. ``later_runs``: its later executions."""

    task_id: str
    badge: Badge
    sentence: str
    begun: bool
    begun_at: datetime | None
    later_runs: tuple[LaterRun, ...] = ()
    tally: Tally | None = None

    @property
    def resolved(self) -> bool:
        """Whether the ledger has a verdict."""
        return self.tally is not None and self.tally.verdict != Tally.Verdict.UNRESOLVED

    @property
    def verdict(self) -> Badge | None:
        return badge_of(self.tally.verdict, books=self.tally.books) if self.tally else None

    @property
    def broken(self) -> Badge | None:
        return BROKEN if self.tally and self.tally.broken else None

    @property
    def effects(self) -> str:
        """The effects of the job's operation and who counts them, in words."""
        if self.tally is None:
            return ""
        if self.tally.books:
            return f"{times(self.tally.effects)}, by the books “{self.tally.books}”"
        return f"{times(self.tally.effects)}, by its own word" if self.tally.effects else "nobody counts them"


@dataclass(frozen=True, slots=True)
class Holder:
    """The worker that held the jobs: its ``name``, from ``since`` until before ``until`` (None: no end known).

    ``after``: an event of the ledger that is older than its end. ``alive``: it has not ended.
    """

    name: str
    since: datetime
    until: datetime | None
    after: int
    alive: bool = False

    def did(self, event: Event) -> bool:
        """Whether this process wrote the event. A later worker of the same name is another process."""
        return event.worker == self.name and self.since <= event.at and (self.until is None or event.at < self.until)


def fate(task_id: str, holder: Holder, events: Sequence[Event], tally: Tally | None, *, listed: bool) -> Fate | None:
    """Return the fate of a job, given all its events in the order of their IDs.

    Returns None if the worker did not hold it when it ended: it had ended and was acknowledged. ``listed``: the worker reported
    that it held the job.
    """
    # Within one process the order is that of time: main commits a receipt later than a pool process its start.
    mine = sorted((event for event in events if holder.did(event)), key=lambda event: event.at)
    received = next((event for event in reversed(mine) if event.kind == "received"), None)
    last = [event for event in mine if received is None or event.at >= received.at]
    begun = next((event for event in last if event.kind == "started"), None)
    end = next((event.kind for event in reversed(last) if event.kind in ENDS), "")
    acked = any(event.kind == "acked" for event in last)
    early = received is not None and received.detail.get("acks_late") is False
    if (not mine and not listed) or (end and (acked or early)):
        return None
    pivot = max((event.id for event in mine if event.kind in ("received", "started")), default=holder.after)
    after = [event for event in events if event.id > pivot and not holder.did(event)]
    if sum(event.kind == "published" for event in events) < 2:
        # The first publication, committed after this worker had received it.
        after = [event for event in after if event.kind != "published"]
    runs = tuple(_runs(after))
    if holder.alive and not after:
        badge, sentence = (RUNNING, "Its body has begun here.") if begun else (HELD, "Its body has not begun yet.")
    else:
        badge, sentence = _what_became(after, runs, end, tally, early=early and begun is not None)
    return Fate(task_id, badge, sentence, begun is not None, begun.at if begun else None, runs, tally)


def _runs(after: Sequence[Event]) -> list[LaterRun]:
    found = []
    for number, event in enumerate(after):
        if event.kind == "started":
            later = after[number + 1 :]
            end = next((other.kind for other in later if other.worker == event.worker and other.kind in ENDS), "")
            found.append(LaterRun(event.worker, event.pid, event.at, end))
    return found


def _what_became(
    after: Sequence[Event], runs: tuple[LaterRun, ...], end: str, tally: Tally | None, *, early: bool
) -> tuple[Badge, str]:
    kinds = {event.kind: event for event in after}  # of each kind, the last
    if tally is None:
        return UNKNOWN, "Its events were lost with the worker, or its task is not recorded (TASKS_DEMO_LEDGER_TASKS)."
    if "quarantined" in kinds:
        return PARKED, "Its attempts are used up: it waits in the quarantine for a decision."
    if runs:
        last = runs[-1]
        ended = f"and {_ENDED.get(last.end, last.end)}" if last.end else "and no end of that is on record"
        return (
            RUN_AGAIN,
            f"Its body was begun {times(len(runs))} after that, last by {last.worker or 'another worker'}, {ended}.",
        )
    if "suppressed" in kinds:
        return (
            ALREADY_DONE,
            f"Delivered again to {kinds['suppressed'].worker}: its operation was completed, so its body was not run.",
        )
    for kind in ("expired", "revoked", "rejected", "ignored"):
        if kind in kinds:
            return DROPPED, f"Delivered again to {kinds[kind].worker}, and {kind}: its body was not run."
    if "received" in kinds:
        waits = ", which deferred it" if "deferred" in kinds else ""
        return DELIVERED_AGAIN, f"Delivered again to {kinds['received'].worker}{waits}. Its body has not begun there."
    if "published" in kinds:
        return PUBLISHED_AGAIN, "A copy was published again, and no worker has received it yet."
    if end in ("returned", "suppressed", "failed"):
        return HAD_ENDED, f"{_sentence(end)} Unless it was acknowledged, its message comes again."
    if end:
        return HAD_ENDED, _sentence(end)
    if early:
        return LOST, "It was acknowledged when its body began, so no broker delivers it again."
    return WAITING, "No worker has received it since. RabbitMQ delivers it at once, Redis after the visibility timeout."


def _sentence(end: str) -> str:
    text = _ENDED.get(end, f"it was {end}")
    return f"{text[0].upper()}{text[1:]}."


_ENDED = {
    "returned": "it returned",
    "suppressed": "it was suppressed: the work was done already",
    "failed": "it failed",
    "deferred": "it was deferred",
    "retried": "it asked for a retry",
    "replaced": "it was replaced by another job",
}
