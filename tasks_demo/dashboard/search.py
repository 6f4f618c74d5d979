"""Searches by task ID, operation or task name, or a prefix of one. Uses indexes, is bounded, and never raises for a bad term."""

from __future__ import annotations

from django.db import connections
from django.db.models import Q

from tasks_demo.dashboard.pages import Tallies
from tasks_demo.ledger.models import Tally

#: Maximum number of matches by task ID, by operation, and per task name; and maximum number of task names.
MOST_FOUND = 500
MOST_NAMES = 20
#: Maximum length of a task ID, an operation or a task name. A longer term matches nothing.
LONGEST = 255
_LAST = "\U0010ffff"


def matching(tallies: Tallies, term: str) -> tuple[Tallies, bool]:
    """Return those of ``tallies`` whose task ID, operation or task starts with ``term``, and whether there may be more."""
    term = term.strip()
    if not term:
        return tallies, False
    if not _can_be_stored(term):
        return tallies.none(), False
    most = MOST_FOUND
    found: list[str] = []
    cut = False
    for column in ("task_id", "operation"):
        hits = Tally.objects.filter(_begins(column, term)).order_by(column).values_list("task_id", flat=True)
        some = list(hits[: MOST_FOUND + 1])
        cut |= len(some) > MOST_FOUND
        found += some[:MOST_FOUND]
    names = _names(term)
    for name in names:
        # The index on tasks lists each name's latest task IDs first.
        some = list(Tally.objects.filter(task=name).order_by("-first_at").values_list("task_id", flat=True)[:most])
        cut |= len(some) == most
        found += some
    return tallies.filter(task_id__in=sorted(set(found))), cut or len(names) == MOST_NAMES


def _names(term: str) -> list[str]:
    """Return up to MOST_NAMES task names that start with ``term``. Skips from name to name in the index, which has one entry per
    task ID.
    """
    names: list[str] = []
    while len(names) < MOST_NAMES:
        rest = Tally.objects.filter(_begins("task", term))
        following = rest.filter(task__gt=names[-1]) if names else rest
        name = following.order_by("task").values_list("task", flat=True).first()
        if name is None:
            break
        names.append(name)
    return names


def _can_be_stored(term: str) -> bool:
    if len(term) > LONGEST or "\0" in term:
        return False
    try:
        term.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _begins(column: str, term: str) -> Q:
    if connections[Tally.objects.db].vendor == "sqlite":
        # On SQLite LIKE ignores case and so cannot use an index; a range can.
        return Q(**{f"{column}__gte": term, f"{column}__lt": term + _LAST})
    return Q(**{f"{column}__startswith": term})
