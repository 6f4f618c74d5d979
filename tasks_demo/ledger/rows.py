"""What the ledger writes: rows of events, and how a row counts in the tally of its task ID. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

#: Kinds that are not points of a task's life.
EFFECT = "effect"  # one debit in the bank's own books
FAULT = "fault"  # what the nemesis did
SETTLED = "settled"  # the books were read after all was quiet
GAP = "gap"  # what a process could not write in time
WORKER = "worker"  # a worker came or went
QUIESCENT = "quiescent"  # the end of an experiment's cell, with the evidence that all is quiet

#: Kinds of events by whoever runs the task; its publisher may know no more of it than its name.
KNOWS_ITS_TASK = frozenset({"received", "started"})

#: The columns of a tally that count events of a kind, in the order of ``sql/keep_tally.sql``.
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

#: What the events say of a job's state, as the last digit (of base 16) of ``Tally.state``. Kinds that are not here change
#: nothing: a copy that is received, deferred or suppressed may be one beside another that runs or has ended.
#: ``models.OUTCOMES`` gives the numbers their names.
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

#: The columns that an event of a kind may count in.
_COLUMNS: dict[str, tuple[str, ...]] = {
    kind: tuple(column for column, kinds in COUNTS.items() if kind in kinds)
    for kind in frozenset[str]().union(*COUNTS.values())
}

#: Longest text of the columns that hold what strangers chose, in characters.
LONGEST: dict[str, int] = {"task_id": 255, "operation": 255, "worker": 255, "task": 255}


@dataclass(frozen=True, slots=True)
class Row:
    """One event to append. ``at`` is seconds since the epoch; ``source`` is unique for ever."""

    at: float
    kind: str
    source: str
    task_id: str = ""
    operation: str = ""
    pattern: str = ""
    worker: str = ""
    pid: int | None = None
    run: str = ""
    books: str = ""
    task: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Whoever publishes chooses task IDs: one that no database can hold must not keep all others out of it.
        for name, most in LONGEST.items():
            text = getattr(self, name)
            if len(text) > most or not text.isprintable():
                object.__setattr__(self, name, storable(text)[:most])

    def detail_as_json(self) -> str:
        """The detail as JSON that every database takes; what JSON cannot carry becomes text. Raises nothing."""
        if not self.detail:
            return "{}"
        try:
            text = json.dumps(self.detail, default=str, allow_nan=False)
            # NUL and half surrogate pairs pass json.dumps, but not PostgreSQL.
            if "\\u0000" not in text and "\\ud" not in text:
                return text
        except Exception:  # noqa: BLE001, S110  (whatever a body put there: names that are no text, NaN, a __str__ that raises)
            pass
        try:
            return json.dumps(_storable(self.detail))
        except Exception as error:  # noqa: BLE001  (it holds itself, for one: an event that cannot be written would keep all others out)
            return json.dumps({"not_written": type(error).__name__})

    def counts_in(self, column: str) -> bool:
        """Whether this event adds one to ``column`` of its task's tally."""
        if self.kind not in COUNTS[column]:
            return False
        if self.kind == "published":
            return bool(self.detail.get("outcome", "ok") == "ok")
        if column == "abandoned":
            return bool(self.detail.get("abandoned"))
        return self.kind != FAULT or bool(self.detail.get("landed"))

    def state(self) -> int:
        """The moment and what the job has been since then, in one number that orders events; 0: this one does not say.

        By the clocks of those who wrote: hosts whose clocks differ by more than a retry takes can be read in the wrong order.
        """
        code = STATES.get(self.kind, 0)
        # What was only deferred beside another, and what a reconciler sends once more, is not news of the job.
        if not code or (code == 1 and self.kind != "replaced" and not self.detail.get("requeued")):
            return 0
        return microseconds(self.at) * 16 + code


def microseconds(at: float) -> int:
    """Whole microseconds since the epoch, rounded as ``datetime.fromtimestamp`` does: a column holds the same ones."""
    whole = int(at)
    return whole * 1_000_000 + round((at - whole) * 1e6)


def storable(text: str) -> str:
    """The text with NUL and half surrogate pairs spelled out: neither fits into a database."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")


def _storable(value: Any) -> Any:
    match value:
        case str():
            return storable(value)
        case dict():
            return {storable(str(name)): _storable(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_storable(inner) for inner in value]
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
    return storable(str(value))


@dataclass(slots=True)
class Sum:
    """What a batch of rows adds to the tally of one task ID."""

    task_id: str
    operation: str = ""
    pattern: str = ""
    run: str = ""
    books: str = ""
    task: str = ""
    state: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    first_at: float = float("inf")
    last_at: float = float("-inf")

    def add(self, row: Row) -> None:
        self.operation = self.operation or row.operation
        self.pattern = self.pattern or row.pattern
        self.run = self.run or row.run
        self.books = self.books or row.books
        self.task = self.task or row.task
        if row.kind in STATES:
            self.state = max(self.state, row.state())
        for column in _COLUMNS.get(row.kind, ()):
            if row.counts_in(column):
                self.counts[column] += 1
        self.first_at = min(self.first_at, row.at)
        self.last_at = max(self.last_at, row.at)


def fold(rows: Iterable[Row]) -> dict[str, Sum]:
    """Sum rows by task ID. Kinds that neither a column counts nor a state follows from touch no tally: a tally costs
    more than an event.

    Effects are not here either: they belong to operations (``sql/count_effects.sql``).
    """
    sums: dict[str, Sum] = {}
    for row in rows:
        if row.task_id and (row.kind in _COLUMNS or row.kind in STATES):
            sums.setdefault(row.task_id, Sum(row.task_id)).add(row)
    return sums
