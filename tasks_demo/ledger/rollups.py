"""Counts the task IDs per minute, hour and day, by task and pattern, from the tallies: in small steps, and neither in workers nor
in page views.

A tally belongs to the minute in which its task ID was first seen, which never changes. New events show which minutes have
changed; those are counted anew with the index on ``first_at``. So the order of events does not matter, and counting twice is
harmless.

IDs are assigned before a transaction commits, so an event may appear with a lower ID than one that was already read. So events
are read a second time, LAG_SECONDS later. Does **not** guarantee that an event counts if its transaction was open for longer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Count, Max, Q, Sum

from tasks_demo.core import clock
from tasks_demo.ledger.database import alias
from tasks_demo.ledger.events import EFFECT
from tasks_demo.ledger.models import STILL_RUNNING, STILL_WAITING, Event, Tally
from tasks_demo.ledger.rollup_models import Backlog, Rollup, RollupState

MINUTE, HOUR, DAY = 60, 3_600, 86_400
#: Seconds after which all transactions that were open at the first reading are assumed to have ended.
LAG_SECONDS = 60.0
#: Task IDs that are older than this when they are first counted are counted per hour: no page shows minutes of that age.
FINE_SECONDS = 25 * HOUR
#: A span and its start.
Unit = tuple[int, int]
#: Maximum number of events that one step reads.
EVENTS_AT_ONCE = 500
#: If more events than this are unread, everything is counted anew from the tallies, which is faster than reading them.
MOST_BEHIND = 50_000
#: Maximum number of past minutes or hours that one step counts; and the number of task IDs after which it counts no more of them.
UNITS_AT_ONCE, TASK_IDS_AT_ONCE = 60, 5_000
#: Maximum number of parameters of one statement; old versions of SQLite accept 999.
_MOST_PARAMETERS = 500
#: Samples of the backlog are kept for this many seconds.
BACKLOG_KEPT = 8 * DAY

#: Columns of a rollup → condition on the tallies that it counts.
COUNTED: dict[str, Q | None] = {
    "task_ids": None,
    "published": Q(publications__gt=0),
    "booked": ~Q(books=""),
    "executions_0": Q(executions=0),
    "executions_1": Q(executions=1),
    "executions_2": Q(executions__gte=2),
    "effects_0": Q(effects=0),
    "effects_1": Q(effects=1),
    "effects_2": Q(effects__gte=2),
    "suppressed": Q(suppressed__gt=0),
    "deferred": Q(deferred__gt=0),
    "waiting": STILL_WAITING,
    "running": STILL_RUNNING,
    **{name: Q(outcome=name) for name in ("retrying", "succeeded", "failed", "parked")},
    "lost": Q(verdict="lost"),
    "broken": Q(broken=True),
}


def fold(seconds: float = 0.03) -> bool:
    """Update the rollups, for about ``seconds`` and at least one step. Returns whether they are up to date. Raises DatabaseError.

    A step reads at most EVENTS_AT_ONCE events, or counts some minutes of the past. If two processes fold at the same time, the
    step of the slower one is discarded.
    """
    until = time.monotonic() + seconds
    while not (done := _step()) and time.monotonic() < until:
        pass
    return done


def refold(before: datetime) -> None:
    """Delete the counts of task IDs first seen before this time, so that ``fold`` counts them again. Call it after ``prune``."""
    using = alias()
    end = (_of(before) // HOUR + 1) * HOUR
    with transaction.atomic(using=using):
        progress = RollupState.objects.using(using).select_for_update().filter(id=1).first()
        if progress is None:
            return  # nothing was counted yet
        Rollup.objects.using(using).filter(start__lt=end).delete()
        day = end // DAY * DAY
        _replace(using, DAY, {day: _summed(using, DAY, HOUR, day)})
        if progress.backfill_minute is None or progress.backfill_minute < end:
            progress.backfill_minute = _earlier(using, end)
        progress.version += 1
        progress.save(using=using, update_fields=["backfill_minute", "version"])


def state() -> RollupState | None:
    """Return how far the tallies are folded. Returns None if they never were."""
    return RollupState.objects.using(alias()).first()


def missing(progress: RollupState | None) -> int:
    """Return how many events the ledger has got since ``progress``. A number that a transaction did not use counts too."""
    return max(0, _newest_event(alias()) - (progress.first_pass_event if progress else 0))


def totals(span: int = DAY) -> list[dict[str, Any]]:
    """Sum the counts of each task and pattern."""
    rows = Rollup.objects.using(alias()).filter(span=span)
    return [dict(row) for row in rows.values("task", "pattern").annotate(**_SUMS).order_by("pattern", "task")]


_SUMS = {name: Sum(name) for name in COUNTED}
_COUNTS = {name: Count("task_id", filter=condition) for name, condition in COUNTED.items()}


def series(span: int, since: int, columns: Iterable[str]) -> dict[int, dict[str, int]]:
    """Sum these columns over all tasks, by start of the span, from ``since`` on (seconds since the epoch)."""
    rows = Rollup.objects.using(alias()).filter(span=span, start__gte=since)
    sums = {name: Sum(name) for name in columns}
    found: list[dict[str, Any]] = [dict(row) for row in rows.values("start").annotate(**sums).order_by("start")]
    return {row.pop("start"): row for row in found}


def backlog(since: int) -> list[Backlog]:
    """Return the samples of waiting jobs from ``since`` on (seconds since the epoch), oldest first."""
    return list(Backlog.objects.using(alias()).filter(minute__gte=since).order_by("minute"))


def _step() -> bool:
    using, now = alias(), time.time()
    progress, _ = RollupState.objects.using(using).get_or_create(id=1)
    newest = _newest_event(using)
    restarted = not progress.folded_at or newest - progress.first_pass_event > MOST_BEHIND
    if restarted:
        progress.first_pass_event = progress.second_pass_limit = newest
        # Transactions of events before that have surely ended.
        progress.second_pass_event = max(0, newest - MOST_BEHIND // 25)
        progress.limit_set_at, progress.backfill_minute = now, _earlier(using, None)
    first = _after(using, progress.first_pass_event, newest)
    settled = now - progress.limit_set_at >= LAG_SECONDS  # transactions that were open at limit_set_at have ended
    second = _after(using, progress.second_pass_event, progress.second_pass_limit) if settled else []
    if first:
        progress.first_pass_event = first[-1][0]
    if second:
        progress.second_pass_event = second[-1][0]
    if settled and len(second) < EVENTS_AT_ONCE:
        progress.second_pass_event, progress.second_pass_limit = progress.second_pass_limit, progress.first_pass_event
        progress.limit_set_at = now
    units = {_unit(using, minute, now) for minute in _minutes_of(using, first + second)}
    counted = {unit: _counted(using, unit) for unit in units}
    backfilled = progress.backfill_minute is not None and not first
    if backfilled:
        counted |= _backfill(using, progress, now)
    if counted or restarted or backfilled or first or _minute(progress.folded_at) != _minute(now):
        _store(using, progress, counted, now)
    return progress.backfill_minute is None and max(len(first), len(second)) < EVENTS_AT_ONCE


def _backfill(using: str, progress: RollupState, now: float) -> dict[Unit, list[Rollup]]:
    """Count some minutes or hours, from ``progress.backfill_minute`` backwards, and move it."""
    counted: dict[Unit, list[Rollup]] = {}
    size = 0
    while progress.backfill_minute is not None and len(counted) < UNITS_AT_ONCE and size < TASK_IDS_AT_ONCE:
        unit = _unit(using, progress.backfill_minute, now)
        counted[unit] = _counted(using, unit)
        size += sum(row.task_ids for row in counted[unit])
        progress.backfill_minute = _earlier(using, unit[1])
    return counted


def _unit(using: str, minute: int, now: float) -> Unit:
    """Return the unit in which this minute is counted: the minute itself, or its hour."""
    hour = minute // HOUR * HOUR
    fine = hour >= now - FINE_SECONDS or _within(using, MINUTE, hour, HOUR).exists()
    return (MINUTE, minute) if fine else (HOUR, hour)


def _within(using: str, span: int, start: int, length: int) -> Any:
    return Rollup.objects.using(using).filter(span=span, start__gte=start, start__lt=start + length)


def _newest_event(using: str) -> int:
    return int(Event.objects.using(using).aggregate(newest=Max("id"))["newest"] or 0)


def _after(using: str, number: int, last: int) -> list[tuple[int, str, str, str]]:
    events = Event.objects.using(using).filter(id__gt=number, id__lte=last)
    return list(events.order_by("id").values_list("id", "task_id", "kind", "operation")[:EVENTS_AT_ONCE])


def _minutes_of(using: str, events: Iterable[tuple[int, str, str, str]]) -> set[int]:
    """Return the minutes of the tallies that these events have changed. An effect changes all tallies of its operation."""
    task_ids: set[str] = set()
    operations: set[str] = set()
    for _, task_id, kind, operation in events:
        task_ids.add(task_id)
        if kind == EFFECT:
            operations.add(operation)
    tallies = Tally.objects.using(using).order_by()
    found: set[int] = set()
    for column, values in (("task_id", task_ids - {""}), ("operation", operations - {""})):
        for part in _parts(sorted(values)):
            found |= {_of(at) for at in tallies.filter(**{f"{column}__in": part}).values_list("first_at", flat=True)}
    return found


def _parts(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (values[start : start + _MOST_PARAMETERS] for start in range(0, len(values), _MOST_PARAMETERS))


def _minute(seconds: float) -> int:
    return int(seconds // MINUTE) * MINUTE


def _of(at: Any) -> int:
    return _minute(clock.aware(at).timestamp())


def _earlier(using: str, before: int | None) -> int | None:
    """Return the latest minute before this one in which a task ID was first seen; None if there is none."""
    tallies = Tally.objects.using(using).order_by("-first_at")
    if before is not None:
        tallies = tallies.filter(first_at__lt=clock.from_epoch(before))
    at = tallies.values_list("first_at", flat=True).first()
    if at is None:
        return None
    return _of(at) if before is None else min(_of(at), before - MINUTE)


def _counted(using: str, unit: Unit) -> list[Rollup]:
    span, start = unit
    tallies = Tally.objects.using(using).filter(
        first_at__gte=clock.from_epoch(start), first_at__lt=clock.from_epoch(start + span)
    )
    groups = tallies.order_by().values("task", "pattern").annotate(**_COUNTS)
    return [Rollup(span=span, start=start, **group) for group in groups]


def _store(using: str, progress: RollupState, counted: dict[Unit, list[Rollup]], now: float) -> None:
    with transaction.atomic(using=using):
        mine = RollupState.objects.using(using).filter(id=1, version=progress.version)
        columns = ("first_pass_event", "second_pass_event", "second_pass_limit", "limit_set_at", "backfill_minute")
        if not mine.update(
            version=progress.version + 1, folded_at=now, **{name: getattr(progress, name) for name in columns}
        ):
            return  # another process has folded meanwhile
        if counted:
            for span, parts in ((MINUTE, 0), (HOUR, MINUTE), (DAY, HOUR)):
                rows = {start: some for (length, start), some in counted.items() if length == span}
                sums = {start // span * span for length, start in counted if length == parts or span == DAY}
                _replace(using, span, rows | {start: _summed(using, span, parts, start) for start in sums})
        _sample(using, _minute(now))


def _replace(using: str, span: int, rows: dict[int, list[Rollup]]) -> None:
    ours = Rollup.objects.using(using)
    for starts in _parts(sorted(rows)):
        ours.filter(span=span, start__in=starts).delete()
    ours.bulk_create([row for some in rows.values() for row in some])


def _summed(using: str, span: int, parts: int, start: int) -> list[Rollup]:
    groups = _within(using, parts, start, span).order_by().values("task", "pattern").annotate(**_SUMS)
    return [Rollup(span=span, start=start, **group) for group in groups]


def _sample(using: str, minute: int) -> None:
    """Store the number of jobs that are waiting now. Minutes in which nobody folds have no sample."""
    rows = Rollup.objects.using(using)
    open_now = rows.filter(span=DAY).aggregate(waiting=Sum("waiting"), running=Sum("running"))
    oldest = _oldest_waiting(using)
    Backlog.objects.using(using).update_or_create(
        minute=minute,
        defaults={
            "waiting": open_now["waiting"] or 0,
            "running": open_now["running"] or 0,
            "oldest": 0 if oldest is None else max(0, minute - oldest),
        },
    )
    Backlog.objects.using(using).filter(minute__lt=minute - BACKLOG_KEPT).delete()


def _oldest_waiting(using: str) -> int | None:
    """Return the minute in which the oldest waiting job was first seen, or its hour if only that is known."""
    hours = Rollup.objects.using(using).filter(span=HOUR, waiting__gt=0).order_by("start")
    hour = hours.values_list("start", flat=True).first()
    if hour is None:
        return None
    minutes = _within(using, MINUTE, hour, HOUR).filter(waiting__gt=0).order_by("start")
    return minutes.values_list("start", flat=True).first() or hour
