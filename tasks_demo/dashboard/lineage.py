"""Where a job comes from and what it has published: the jobs before and after it in a chain, a group or a body.

Celery sends the task ID of the publishing job along, and the event ``published`` keeps it as ``parent``. No index serves it, so
that no job pays for it: a job's children are searched among the events around its own.

What is **not** guaranteed: that every child is found (see ``AFTER_ITS_START`` and ``AROUND_ITS_END``), and that a job of the
outbox has a parent: it is the relay that publishes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from django.db.models import Max, Min, Q

from tasks_demo.dashboard.labels import Badge, verdict_badge
from tasks_demo.ledger.models import Event, Tally

#: Jobs before this one, and jobs published by it, that are shown.
MOST_BEFORE, MOST_AFTER = 10, 20
#: Events of the whole ledger that are searched for children: after the job's first start, and on each side of its last event.
AFTER_ITS_START, AROUND_ITS_END = 2_000, 1_000


@dataclass(slots=True)
class Node:
    """One job of the tree. ``badge``: None if the ledger has no tally of it. ``is_current``: the job that the page is about."""

    task_id: str
    is_current: bool = False
    task: str = ""
    badge: Badge | None = None
    children: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Lineage:
    """``top``: the first job that is known. ``truncated``: there are more jobs before it, or children."""

    top: Node
    truncated: bool

    @property
    def nodes(self) -> list[Node]:
        return [self.top]


def lineage(task_id: str, parent: str | None = None) -> Lineage | None:
    """Return the tree around a job; None if it has neither parent nor children on record. ``parent``: if known; "": none."""
    before, truncated = _before(task_id, _parent(task_id) if parent is None else parent)
    after = _after(task_id)
    if not before and not after:
        return None
    here = Node(task_id, is_current=True, children=[Node(each) for each in after[:MOST_AFTER]])
    top = here
    for each in before:
        top = Node(each, children=[top])
    _describe(top)
    return Lineage(top, truncated or len(after) > MOST_AFTER)


def _before(task_id: str, parent: str) -> tuple[list[str], bool]:
    """Return the jobs before it, the nearest first, and whether there are more."""
    found: list[str] = []
    while parent and parent not in (task_id, *found):  # a publisher may write any header
        if len(found) == MOST_BEFORE:
            return found, True
        found.append(parent)
        parent = _parent(parent)
    return found, False


def _parent(task_id: str) -> str:
    details = Event.objects.filter(task_id=task_id, kind="published").order_by("id").values_list("detail", flat=True)
    parent = next((detail["parent"] for detail in details[:MOST_AFTER] if detail.get("parent")), "")
    return parent if isinstance(parent, str) else ""


def _after(task_id: str) -> list[str]:
    ids = Event.objects.filter(task_id=task_id).aggregate(
        started=Min("id", filter=Q(kind="started")), last=Max("id", filter=~Q(kind__in=["effect", "settled"]))
    )
    if ids["started"] is None:
        return []
    near = Q(id__gt=ids["started"], id__lte=ids["started"] + AFTER_ITS_START)
    near |= Q(id__gte=ids["last"] - AROUND_ITS_END, id__lte=ids["last"] + AROUND_ITS_END)
    children = Event.objects.filter(near, kind="published", detail__parent=task_id).order_by("id")
    found = children.values_list("task_id", flat=True)[: 10 * MOST_AFTER]  # a retry is published again
    return [each for each in dict.fromkeys(found) if each != task_id]


def _describe(top: Node) -> None:
    nodes, waiting = [], [top]
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        waiting += node.children
    known = Tally.objects.in_bulk([node.task_id for node in nodes])
    for node in nodes:
        if tally := known.get(node.task_id):
            node.task, node.badge = tally.task, verdict_badge(tally)
