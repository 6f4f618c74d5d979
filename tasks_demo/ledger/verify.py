"""Checks ``tallies == sum_events(events)``: recounts everything from the events and compares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice

from django.db import Error, connections

from tasks_demo.core import clock
from tasks_demo.ledger.events import EFFECT, EventData
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.ledger.tallies import COUNTS, sum_events

TASKS_AT_ONCE = 500


@contextmanager
def _one_moment(alias: str) -> Iterator[None]:
    """Read from one snapshot of the database. Writers are not blocked."""
    connection = connections[alias]
    # Not Django's atomic(): on SQLite it takes the write lock if the project sets transaction_mode to IMMEDIATE.
    begin = "BEGIN" if connection.vendor == "sqlite" else "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
    with connection.cursor() as cursor:
        cursor.execute(begin)
        try:
            yield
        finally:
            with suppress(Error):  # the connection was just lost, and that error is already propagating
                cursor.execute("ROLLBACK")


def _events_of(tallies: Sequence[Tally]) -> dict[str, list[EventData]]:
    found: dict[str, list[EventData]] = {tally.task_id: [] for tally in tallies}
    for event in Event.objects.filter(task_id__in=found).order_by("id").iterator():
        found[event.task_id].append(
            EventData(
                at=clock.aware(event.at).timestamp(),
                kind=event.kind,
                source=event.source,
                task_id=event.task_id,
                operation=event.operation,
                pattern=event.pattern,
                run=event.run,
                task=str(event.detail.get("task") or ""),
                detail=event.detail,
            )
        )
    return found


def differences() -> Iterator[str]:
    """Yield one sentence per difference between a tally and the sum of its events. Yields nothing if all agree.

    Workers may keep writing: everything is read from one snapshot. Do not call it inside a transaction. Memory holds the events
    of TASKS_AT_ONCE task IDs at a time, and one count per operation that has an effect.
    """
    with _one_moment(Event.objects.db):
        yield from _differences()


def _with_events() -> Iterator[tuple[Tally, list[EventData]]]:
    tallies = Tally.objects.order_by("task_id").iterator()
    while page := list(islice(tallies, TASKS_AT_ONCE)):
        events = _events_of(page)
        for tally in page:
            yield tally, events[tally.task_id]


def _differences() -> Iterator[str]:
    effects: Counter[str] = Counter()
    for operation in Event.objects.filter(kind=EFFECT).values_list("operation", flat=True).iterator():
        effects[operation] += 1
    for tally, rows in _with_events():
        summed = sum_events(rows).get(tally.task_id)
        if summed is None:
            yield f"{tally.task_id}: a tally without a single event."
            continue
        for column in COUNTS:
            kept, counted = getattr(tally, column), summed.counts[column]
            if kept != counted:
                yield f"{tally.task_id}: {column} is {kept}, the events say {counted}."
        if tally.state != summed.state:
            yield f"{tally.task_id}: state is {tally.state}, the events say {summed.state}."
        named = {row.task for row in rows} - {""}  # few events carry the task name; a replaced task has two names
        if named and tally.task not in named:
            yield f"{tally.task_id}: task is {tally.task!r}, the events say {' and '.join(sorted(named))!r}."
        if tally.effects != effects[tally.operation]:
            yield f"{tally.task_id}: effects is {tally.effects}, the events say {effects[tally.operation]}."
    counted_kinds = sorted(frozenset[str]().union(*COUNTS.values()))
    missing = (
        Event.objects.filter(kind__in=counted_kinds)
        .exclude(task_id="")
        .exclude(task_id__in=Tally.objects.values("task_id"))
        .values_list("task_id", flat=True)
        .distinct()
    )
    for task_id in missing.iterator():
        yield f"{task_id}: events without a tally."
