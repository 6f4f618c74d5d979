"""What holds an operation beside the leases of dedup_lock: the outbox's jobs that a worker has begun, and claims of claim_first.

Reads the databases that the router names for the two tables, not those that a task names with ``using``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from django.db import DatabaseError, connections, router
from django.db.models import Model
from django.utils.timezone import now

from tasks_demo.core import clock
from tasks_demo.dashboard.labels import Badge, outcome_badge
from tasks_demo.dashboard.swimlanes import duration
from tasks_demo.leases.process import Process, parse_process, this_process
from tasks_demo.ledger.models import Tally
from tasks_demo.records.models import Claim, OutboxMessage

#: Rows of each table on the page, and open outbox messages that are searched for begun ones.
MOST_SHOWN, MOST_SEARCHED = 50, 1_000
HELD = Badge("recovered", "▸", "held", "a claim holds the lease, and renews it while its body runs")
STUCK = Badge(
    "lost", "✗", "held by a dead process", "the next delivery on the machine of the holder takes the lease over"
)
UNKNOWN = Badge("unresolved", "?", "not in the ledger", "what became of its job is not on record, or was pruned")


@dataclass(frozen=True, slots=True)
class Hold:
    """One row. ``by``: who holds it, in words; ``seen``: how long ago it last reported; empty: it does not report."""

    operation: str
    badge: Badge
    by: str
    task_id: str
    since: datetime
    seen: str


@dataclass(frozen=True, slots=True)
class Holds:
    """A table of the page. ``truncated``: there may be more. ``trouble``: why it could not be read."""

    title: str
    rows: list[Hold]
    most: int
    truncated: bool = False
    trouble: str = ""


def holds() -> list[Holds]:
    """Return both tables, latest first. Three queries."""
    return [
        _read("Outbox jobs that a worker has begun", OutboxMessage, _begun),
        _read("Claims of claim_first", Claim, _claims),
    ]


def _read(title: str, model: type[Model], rows: Callable[[str], tuple[list[Hold], bool]]) -> Holds:
    alias = router.db_for_write(model)
    try:
        found, truncated = rows(alias)
    except DatabaseError as error:
        connections[alias].close()
        return Holds(title, [], MOST_SHOWN, trouble=str(error).partition("\n")[0])
    return Holds(title, found, MOST_SHOWN, truncated)


def _begun(alias: str) -> tuple[list[Hold], bool]:
    open_ = OutboxMessage.objects.using(alias).filter(finished_at=None).order_by("-due_at", "-id")
    # A begun message is due again when its lease ends, so it is among those that are due last.
    looked = list(open_.only("task_id", "task", "started_at", "started_by", "seen_at", "created_at")[:MOST_SEARCHED])
    held = [row for row in looked if row.started_by and row.started_at]
    shown = [_of_outbox(row) for row in islice(held, MOST_SHOWN)]
    return shown, len(held) > MOST_SHOWN or len(looked) == MOST_SEARCHED


def _of_outbox(row: OutboxMessage) -> Hold:
    process = parse_process(row.started_by)
    seen = duration(max((now() - clock.aware(row.seen_at)).total_seconds(), 0) * 1000) + " ago" if row.seen_at else ""
    badge = STUCK if process is not None and process.gone else HELD
    return Hold(
        row.task,
        badge,
        who(process) if process else row.started_by,
        row.task_id,
        row.started_at or row.created_at,
        seen,
    )


def _claims(alias: str) -> tuple[list[Hold], bool]:
    rows = list(Claim.objects.using(alias).order_by("-claimed_at")[: MOST_SHOWN + 1])
    task_ids = [row.task_id for row in rows]
    outcomes = dict(Tally.objects.filter(task_id__in=task_ids).values_list("task_id", "outcome")) if rows else {}
    shown = [
        Hold(
            row.operation,
            outcome_badge(outcomes[row.task_id]) if row.task_id in outcomes else UNKNOWN,
            row.worker, row.task_id, row.claimed_at, "",
        )
        for row in rows[:MOST_SHOWN]
    ]  # fmt: skip
    return shown, len(rows) > MOST_SHOWN


def who(holder: Process) -> str:
    """Say which process it is, and whether it can be seen from here."""
    if holder.gone:
        return f"process {holder.pid}, gone"
    if holder.where and holder.where == this_process("").where:
        return f"process {holder.pid}, exists here"
    return f"process {holder.pid} elsewhere: cannot be seen from here"
