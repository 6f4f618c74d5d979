"""Search by task ID, operation or task: the whole of it, or its beginning. Served by indexes, bounded, and never an error."""

from __future__ import annotations

from django.db import connections
from django.db.models import Q

from tasks_demo.dashboard.pages import Tallies
from tasks_demo.ledger.models import Tally

#: A search looks no further than this many task IDs, and as many operations; and at the latest of this many names of tasks.
MOST_FOUND = 500
MOST_NAMES = 20
#: Neither a task ID nor an operation is longer: what is longer is nowhere.
LONGEST = 255
_LAST = "\U0010ffff"


def matching(tallies: Tallies, term: str) -> tuple[Tallies, bool]:
    """Those of ``tallies`` whose task ID, operation or task is or begins with ``term``, and whether there may be more."""
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
        # The index on tasks has each name's latest first.
        some = list(Tally.objects.filter(task=name).order_by("-first_at").values_list("task_id", flat=True)[:most])
        cut |= len(some) == most
        found += some
    return tallies.filter(task_id__in=sorted(set(found))), cut or len(names) == MOST_NAMES


def _names(term: str) -> list[str]:
    """The names of tasks that begin with it, from one to the next in the index: it has an entry for each task ID."""
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
        # LIKE cannot use an index there, because it ignores case; a range can.
        return Q(**{f"{column}__gte": term, f"{column}__lt": term + _LAST})
    return Q(**{f"{column}__startswith": term})
