"""Search by task ID or operation: the whole of it, or its beginning. Served by indexes, bounded, and never an error."""

from __future__ import annotations

from django.db import connections
from django.db.models import Q

from tasks_demo.dashboard.pages import Tallies
from tasks_demo.models import Tally

#: A search looks no further than this many task IDs, and as many operations.
MOST_FOUND = 500
#: Neither a task ID nor an operation is longer: what is longer is nowhere.
LONGEST = 255
_LAST = "\U0010ffff"


def matching(tallies: Tallies, term: str) -> tuple[Tallies, bool]:
    """Those of ``tallies`` whose task ID or operation is or begins with ``term``, and whether there may be more."""
    term = term.strip()
    if not term:
        return tallies, False
    if not _can_be_stored(term):
        return tallies.none(), False
    found: list[str] = []
    cut = False
    for column in ("task_id", "operation"):
        hits = Tally.objects.filter(_begins(column, term)).order_by(column).values_list("task_id", flat=True)
        some = list(hits[: MOST_FOUND + 1])
        cut |= len(some) > MOST_FOUND
        found += some[:MOST_FOUND]
    return tallies.filter(task_id__in=sorted(set(found))), cut


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
