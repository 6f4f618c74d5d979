"""Searches by task ID, operation, task name or worker, or a prefix of one. Uses indexes, is bounded, and never raises for a bad
term.
"""

from __future__ import annotations

from collections.abc import Iterable

from django.db import connections
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest

from tasks_demo.dashboard import by_worker
from tasks_demo.dashboard.keyset import Tallies
from tasks_demo.ledger.models import Event, Tally

#: Maximum number of matches by task ID, by operation, by task names and by workers; and maximum number of such names.
MOST_FOUND = 500
MOST_NAMES = 10
#: Maximum length of a term. A longer one matches nothing.
LONGEST = 255
_LAST = "\U0010ffff"


def matching(tallies: Tallies, term: str) -> tuple[Tallies, bool]:
    """Return those of ``tallies`` whose task ID, operation, task or worker starts with ``term``, and whether some are missing."""
    term = term.strip()
    if not term:
        return tallies, False
    if not can_be_stored(term):
        return tallies.none(), False
    found: list[str] = []
    truncated = False
    for column in ("task_id", "operation"):
        truncated |= _add(
            found, Tally.objects.filter(_begins(column, term)).order_by().values_list("task_id", flat=True)
        )
    tasks, workers = _names(by_worker.task_names(), term), _names(by_worker.worker_names(), term)
    for some, more in (
        by_worker.latest_of(Tally.objects.all(), "task", tasks[:MOST_NAMES], "first_at", MOST_FOUND),
        by_worker.started_by(workers[:MOST_NAMES], MOST_FOUND),
    ):
        found += some
        truncated |= more
    return tallies.filter(task_id__in=sorted(set(found))), truncated or max(len(tasks), len(workers)) > MOST_NAMES


def all_matching(tallies: Tallies, term: str) -> Tallies:
    """Return what ``matching`` returns, without a limit. Slow: for an export."""
    term = term.strip()
    if not term:
        return tallies
    if not can_be_stored(term):
        return tallies.none()
    workers = _names(by_worker.worker_names(), term)
    by_one = Exists(Event.objects.filter(task_id=OuterRef("task_id"), kind="started", worker__in=workers))
    condition = _begins("task_id", term) | _begins("operation", term) | Q(task__in=_names(by_worker.task_names(), term))
    return tallies.filter(condition | Q(by_one) if workers else condition)


def _add(found: list[str], task_ids: QuerySet[Tally, str]) -> bool:
    some = list(task_ids[: MOST_FOUND + 1])
    found += some[:MOST_FOUND]
    return len(some) > MOST_FOUND


def _names(known: Iterable[str], term: str) -> list[str]:
    return [name for name in known if name.startswith(term)]


def can_be_stored(term: str) -> bool:
    """Return whether a column can hold this text: it is short enough, and has neither NUL nor a lone surrogate."""
    if len(term) > LONGEST or "\0" in term:
        return False
    try:
        term.encode()
    except UnicodeEncodeError:
        return False
    return True


def _begins(column: str, term: str) -> Q:
    if connections[Tally.objects.db].vendor == "sqlite":
        # On SQLite LIKE ignores case and so cannot use an index; a range can.
        return Q(**{f"{column}__gte": term, f"{column}__lt": term + _LAST})
    return Q(**{f"{column}__startswith": term})


class StorableLookups:
    """For a ModelAdmin: answers 400 to a filter in the address whose text no column can hold, instead of failing on it."""

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        return can_be_stored(str(value)) and bool(super().lookup_allowed(lookup, value, request))  # type: ignore[misc]
