"""The histories of invented jobs: each life is a sequence of events, and each story has a share of all jobs. No database access.

The counts of a life come from ``ledger.tallies.sum_events``, the same function that counts real events, so they cannot disagree.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

from tasks_demo.ledger.events import EFFECT, FAULT, SETTLED, EventData
from tasks_demo.ledger.tallies import TallyDelta, sum_events

#: Task names, each with its pattern, its share, and whether the bank counts its effects.
TASKS: tuple[tuple[str, str, int, bool], ...] = (
    ("shop.tasks.charge_order", "dedup_lock", 20, True),
    ("shop.tasks.refund_order", "dedup_lock", 5, True),
    ("shop.tasks.charge_subscription", "acks_late", 15, True),
    ("shop.tasks.reserve_stock", "inbox", 10, False),
    ("shop.tasks.send_receipt", "acks_late", 15, False),
    ("mail.tasks.newsletter", "acks_early", 15, False),
    ("mail.tasks.one_time_code", "claim_first", 5, False),
    ("orders.tasks.announce", "outbox", 8, False),
    ("reports.tasks.daily", "", 5, False),
    ("search.tasks.reindex", "", 2, False),
)
BOOKS = "bank"
WORKERS = tuple(f"celery@worker-{host:02}" for host in range(1, 13))
#: The events of a job without incident, the most important first; with books its effect is one of them.
_PLAIN = (
    "started",
    "returned",
    "published",
    "received",
    "acked",
    "claimed",
    "completed",
    "effect_begun",
    "effect_done",
)
_ORDER = (
    "published", "received", "claimed", "started", "effect_begun", EFFECT, "effect_done", "completed", "returned", "acked",
)  # fmt: skip
FEWEST, MOST = 2, 10
#: Kinds that the worker's main process reports; the other kinds of a worker come from a process of its pool.
_BY_MAIN = frozenset({"received", "acked", "expired", "revoked", "rejected", "quarantined", "suppressed"})
_BY_NOBODY = frozenset({"published", EFFECT, FAULT, SETTLED})
_KILL = {"what": "kill-main", "victim": "main", "landed": True, "why": "", "died": "SIGKILL", "point": "started"}


@dataclass(frozen=True, slots=True)
class Step:
    """One event of a life. ``after``: microseconds since the life began. ``second``: reported by the worker that took over."""

    kind: str
    after: int
    second: bool = False
    detail: dict[str, Any] = field(default_factory=dict)

    def event(self) -> EventData:
        """Return the event, for a task ID ``x`` whose life begins at the epoch."""
        return EventData(at=self.after / 1e6, kind=self.kind, source="x", task_id="x", detail=self.detail)

    @property
    def by_main(self) -> bool | None:
        """Whether a worker's main process reported it; None: no worker did."""
        return None if self.kind in _BY_NOBODY else self.kind in _BY_MAIN


@dataclass(frozen=True)
class Life:
    """The events of one task ID."""

    steps: tuple[Step, ...]

    @cached_property
    def counts(self) -> TallyDelta:
        """The counts of the life. The state's time is relative to the beginning."""
        return sum_events(step.event() for step in self.steps)["x"]


@dataclass(frozen=True, slots=True)
class Story:
    """The lives of the task IDs of one operation. ``share``: in 10,000 operations. ``with_books``: if given, only tasks with or
    without books."""

    share: int
    lives: tuple[Life, ...]
    patterns: frozenset[str] | None = None
    with_books: bool | None = None
    in_a_run: bool = False

    @property
    def effects(self) -> int:
        """The number of effects of the operation."""
        return sum(step.kind == EFFECT for life in self.lives for step in life.steps)

    def suits(self, pattern: str, books: bool) -> bool:
        """Return whether a task of this pattern can have this story."""
        return (self.patterns is None or pattern in self.patterns) and self.with_books in (None, books)


def _life(*kinds: str, apart: int = 12_000, later: int = 3_000_000) -> Life:
    """Build a life from kinds that are ``apart`` microseconds apart. ``kill``: a kill, after which a second worker continues."""
    steps, after, second = [], 0, False
    for kind in kinds:
        detail: dict[str, Any] = {}
        if kind == "kill":
            kind, detail = FAULT, _KILL
        elif kind == "received" and second:
            detail = {"redelivered": True}
        elif kind == EFFECT:
            detail = {"amount": 1999}
        steps.append(Step(kind, after, second, detail))
        after += apart
        if kind == FAULT:
            second, after = True, after + later
    return Life(tuple(steps))


def stories(events_per_task: int) -> list[Story]:
    """Return all stories. A job without incident has ``events_per_task`` events, FEWEST to MOST; the number of the others is
    fixed."""

    def plain(*must: str) -> Life:
        kinds = {*must, *[kind for kind in _PLAIN if kind not in must][: events_per_task - len(must)]}
        return _life(*(kind for kind in _ORDER if kind in kinds))

    late = frozenset({"acks_late", "outbox"})
    early = frozenset({"acks_early", "claim_first"})
    once = frozenset({"dedup_lock", "inbox"})
    begun = ("published", "received", "started")
    again = ("received", "started")
    ended = ("returned", "acked")
    return [
        Story(8_900, (plain(),), with_books=False),
        Story(8_900, (plain(EFFECT),), with_books=True),
        Story(100, (plain(),), with_books=False, in_a_run=True),
        Story(100, (_life(*begun, "kill", *again, EFFECT, *ended),), late | once, with_books=True, in_a_run=True),
        Story(60, (_life(*begun, EFFECT, "kill", *again, EFFECT, *ended),), late, with_books=True, in_a_run=True),
        Story(4, (_life(*begun, EFFECT, "kill", *again, EFFECT, *ended),), once, with_books=True, in_a_run=True),
        Story(3, (_life("published", "received", "kill", SETTLED),), late, with_books=True, in_a_run=True),
        Story(60, (_life("published", "received", "acked", "rejected"),), early | {""}),
        Story(40, (_life(*begun, "acked", "kill", SETTLED),), early, in_a_run=True),
        Story(150, (_life(*begun, "failed", "acked"),), with_books=False),
        Story(150, (_life(*begun, "retried", "acked", *again, *ended, apart=400_000),), late | once | {""}, with_books=False),
        Story(150, (plain(EFFECT), _life("published", "received", "suppressed", "acked", later=0)), once, with_books=True),
        Story(80, (_life("published", "received", "deferred", *again, *ended, apart=900_000),), once, with_books=False),
        Story(10, (_life("published", *("received", "kill") * 3, "quarantined"),), late | once, in_a_run=True),
        Story(30, (_life("published", "received", "expired", apart=60_000_000),)),
        Story(20, (_life("published", "received", "revoked"),)),
        Story(20, (_life("published"),)),
        Story(20, (_life(*begun),)),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    """One invented operation: a task, a story, and who ran it."""

    task: str
    pattern: str
    books: str
    story: Story
    worker: int


def jobs(seed: int, events_per_task: int) -> Iterator[Job]:
    """Yield an infinite sequence of jobs, the same for the same seed."""
    chance = random.Random(f"{seed}:jobs")
    all_of_them = stories(events_per_task)
    # A start, an effect and an end need three events.
    kinds = [
        (name, pattern, BOOKS if books else "", _suiting(all_of_them, pattern, books))
        for name, pattern, _, by_bank in TASKS
        for books in [by_bank and events_per_task >= 3]
    ]
    weights = list(accumulate(share for *_, share, _ in TASKS))
    while True:
        name, pattern, books, (suiting, shares) = chance.choices(kinds, cum_weights=weights)[0]
        story = chance.choices(suiting, cum_weights=shares)[0]
        yield Job(name, pattern, books, story, chance.randrange(len(WORKERS)))


def _suiting(known: Sequence[Story], pattern: str, books: bool) -> tuple[list[Story], list[int]]:
    found = [story for story in known if story.suits(pattern, books)]
    return found, list(accumulate(story.share for story in found))
