"""Settles tasks: records that their books were read after the tasks had ended.

Only a settled task may be called lost. Before that, its effect may be in the books but not read yet.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256

from django.db.models import Count, Exists, F, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce

from tasks_demo.core import clock
from tasks_demo.core.conf import settings
from tasks_demo.ledger.database import on_primary
from tasks_demo.ledger.events import SETTLED, EventData
from tasks_demo.ledger.models import IN_A_RUN, UNSETTLED, Event, Tally
from tasks_demo.ledger.store import append_missing

#: Tasks per transaction.
BATCH = 500


def settle(before: float | None = None, *, books: str = "", run: str | None = None) -> int:
    """Record that the books were read after these tasks had ended. Returns the number of tasks settled.

    With ``before`` (seconds since the epoch) and ``books``, settles the BATCH oldest tasks of these books that ended before that
    time without an effect. The caller must have read the books since. Skips tasks whose operation may still have a running
    execution.
    With ``run``, settles all tasks of that experiment cell. The caller must know that nothing runs there any more.
    Raises ValueError if neither is given.
    """
    if run is not None:
        quiet = on_primary(Tally).filter(IN_A_RUN, settled=0, run=run).exclude(books="")
    elif before is not None and books:
        moment = clock.from_epoch(before)
        quiet = (
            on_primary(Tally)
            .filter(UNSETTLED, ~_still_running(moment), books=books, run="", last_at__lt=moment)
            .order_by("first_at")[:BATCH]
        )
    else:
        raise ValueError("settle() needs before and books, or run.")
    known = list(quiet.values_list("task_id", flat=True))
    return sum(
        append_missing(lambda part=known[start : start + BATCH]: _settlements(part))  # type: ignore[misc]
        for start in range(0, len(known), BATCH)
    )


def _settlements(task_ids: Sequence[str]) -> list[EventData]:
    unsettled = on_primary(Tally).filter(task_id__in=task_ids, settled=0)
    return [
        EventData(
            at=time.time(),
            kind=SETTLED,
            source=_source(task_id),
            task_id=task_id,
            operation=operation,
            pattern=pattern,
            run=in_run,
        )
        for task_id, operation, pattern, in_run in unsettled.values_list("task_id", "operation", "pattern", "run")
    ]


def _still_running(moment: datetime) -> Exists:
    """Return a condition: an execution of the same operation started, and its end is not recorded.

    A killed execution looks the same, so it counts as running for TASKS_DEMO_OUTBOX_UNFINISHED_SECONDS only.
    """
    over = Q(kind__in=["retried", "replaced", "lease_lost"]) | Q(kind="deferred", detail__requeued=True)
    given_up = on_primary(Event).filter(over, task_id=OuterRef("task_id")).order_by()
    counted = given_up.values("task_id").annotate(count=Count("id")).values("count")
    seen = F("ended") - F("suppressed") - F("quarantined") + Coalesce(Subquery(counted), 0)
    oldest = moment - timedelta(seconds=settings.OUTBOX_UNFINISHED_SECONDS)
    return Exists(
        on_primary(Tally)
        .filter(operation=OuterRef("operation"), last_at__gt=oldest, executions__gt=seen)
        .exclude(operation="")
    )


def _source(task_id: str) -> str:
    """Return the event source of a task's settlement, at most 120 characters.

    A longer source is hashed: if it were truncated, two tasks could share it.
    """
    source = f"settled:{task_id}"
    # The prefix differs because a publisher may choose a task ID that equals the hash of another.
    return source if len(source) <= 120 else f"settled#{sha256(task_id.encode()).hexdigest()}"
