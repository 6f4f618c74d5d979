"""Counts events per task ID: the column and state of each kind, and the sums of a batch. No database access."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tasks_demo.ledger.events import FAULT, SETTLED, EventData, microseconds

#: The count columns of a tally, in the order of ``sql/update_tally.sql``, and the kinds that each counts.
COUNTS: dict[str, frozenset[str]] = {
    "publications": frozenset({"published"}),
    "deliveries": frozenset({"received"}),
    "executions": frozenset({"started"}),
    "suppressed": frozenset({"suppressed"}),
    "deferred": frozenset({"deferred"}),
    "fenced": frozenset({"fenced"}),
    "quarantined": frozenset({"quarantined"}),
    "failed": frozenset({"failed"}),
    "returned": frozenset({"returned"}),
    "abandoned": frozenset({"failed"}),
    "faults": frozenset({FAULT}),
    "ended": frozenset(
        {"returned", "suppressed", "failed", "rejected", "ignored", "expired", "revoked", "quarantined"}
    ),
    "settled": frozenset({SETTLED}),
}

#: The state that a kind sets: the last hexadecimal digit of ``Tally.state``, named by ``models.OUTCOMES``.
#: Other kinds change no state: a received, deferred or suppressed copy may exist beside another that has ended.
STATES: dict[str, int] = {
    "deferred": 1,
    "published": 1,
    "replaced": 1,
    "started": 2,
    "retried": 3,
    "returned": 4,
    "failed": 5,
    "expired": 6,
    "revoked": 7,
    "rejected": 8,
    "ignored": 8,
    "quarantined": 9,
}

#: The columns that a kind may count in, and their positions in COUNTS.
_COLUMNS: dict[str, tuple[tuple[int, str], ...]] = {
    kind: tuple((place, column) for place, (column, kinds) in enumerate(COUNTS.items()) if kind in kinds)
    for kind in frozenset[str]().union(*COUNTS.values(), STATES)
}


def counts_in(event: EventData, column: str) -> bool:
    """Return whether this event adds one to ``column`` of its task's tally."""
    if event.kind not in COUNTS[column]:
        return False
    if event.kind == "published":
        return bool(event.detail.get("outcome", "ok") == "ok")
    if column == "abandoned":
        return bool(event.detail.get("abandoned"))
    return event.kind != FAULT or bool(event.detail.get("landed"))


def state_of(event: EventData) -> int:
    """Encode the job's new state and its time as one number that orders by time. Returns 0 if the event changes no state.

    The time is that of the writer's clock. If the clocks of two hosts differ by more than a retry takes, the order can be wrong.
    """
    code = STATES.get(event.kind, 0)
    # A copy that is deferred beside another, or published again by a reconciler, does not change the job's state.
    if not code or (code == 1 and event.kind != "replaced" and not event.detail.get("requeued")):
        return 0
    return microseconds(event.at) * 16 + code


@dataclass(slots=True)
class TallyDelta:
    """The sums that a batch of events adds to the tally of one task ID."""

    task_id: str
    operation: str = ""
    pattern: str = ""
    run: str = ""
    books: str = ""
    task: str = ""
    state: int = 0
    #: In the order of COUNTS.
    numbers: list[int] = field(default_factory=lambda: [0] * len(COUNTS))
    first_at: float = float("inf")
    last_at: float = float("-inf")

    def add(self, event: EventData) -> None:
        self.operation = self.operation or event.operation
        self.pattern = self.pattern or event.pattern
        self.run = self.run or event.run
        self.books = self.books or event.books
        self.task = self.task or event.task
        if event.kind in STATES and (state := state_of(event)) > self.state:
            self.state = state
        for place, column in _COLUMNS[event.kind]:
            if counts_in(event, column):
                self.numbers[place] += 1
        if event.at < self.first_at:
            self.first_at = event.at
        if event.at > self.last_at:
            self.last_at = event.at

    @property
    def counts(self) -> dict[str, int]:
        """The sums by column."""
        return dict(zip(COUNTS, self.numbers, strict=True))


def sum_events(events: Iterable[EventData]) -> dict[str, TallyDelta]:
    """Sum events by task ID. Does not count effects: they belong to operations (``sql/count_effects.sql``).

    Skips events that change neither a count nor the state, because updating a tally costs more than appending an event.
    """
    deltas: dict[str, TallyDelta] = {}
    for event in events:
        if event.task_id and event.kind in _COLUMNS:
            delta = deltas.get(event.task_id)
            if delta is None:
                delta = deltas[event.task_id] = TallyDelta(event.task_id)
            delta.add(event)
    return deltas
