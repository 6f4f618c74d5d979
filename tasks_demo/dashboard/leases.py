"""The screen of leases: which operations are held, by which process, since when and until when, and which are completed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse

from tasks_demo.core import clock
from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import InvalidSetting, LeaseStoreUnavailable
from tasks_demo.dashboard import screens
from tasks_demo.dashboard.labels import Badge
from tasks_demo.dashboard.swimlanes import duration
from tasks_demo.leases.listing import LeaseRecord, Listing, listed
from tasks_demo.leases.memory_store import Memory
from tasks_demo.leases.process import Process, this_process
from tasks_demo.leases.stores import lease_place

#: Maximum time to wait for one reply of Redis, seconds.
REPLY = 0.5
HELD = Badge("recovered", "▸", "held", "a claim holds the lease, and renews it while its body runs")
STUCK = Badge(
    "lost", "✗", "held by a dead process", "the next delivery on the machine of the holder takes the lease over"
)
EXPIRED = Badge(
    "lost", "✗", "lease expired", "its holder did not complete it and does not renew it: the next delivery takes it"
)
STATES: dict[str, Badge] = {
    "completed": Badge("ok", "✓", "completed", "its body is not run again while this is kept"),
    "released": Badge("unresolved", "◦", "released", "its body failed or asked for a retry: the next delivery runs it"),
    "forgotten": Badge(
        "unresolved", "⊘", "forgotten", "somebody made the pattern forget it: the next delivery runs it"
    ),
    "damaged": Badge("lost", "?", "damaged", "not a record of ours: a claim is refused until it is forgotten"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One operation on the page. ``holder``: who claimed it last, in words. ``left``: time to the end of the lease."""

    operation: str
    badge: Badge
    holder: str
    task_id: str
    claimed_at: datetime | None
    left: str
    attempts: str
    result: str


def view(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
    """List the leases. A look at one operation, and forgetting it, are pages of the operations."""
    beginning = request.GET.get("q", "").strip().replace("\0", "")[:200]
    listing, trouble = _listing(beginning)
    context = {
        "title": "Leases",
        "q": beginning,
        "rows": [_row(record) for record in listing.records],
        "cut": listing.cut,
        "trouble": trouble,
    }
    return screens.page(request, admin_site, "admin/tasks_demo/leases.html", context)


def _listing(beginning: str) -> tuple[Listing, str]:
    """Return the records, and why they could not be read."""
    if not settings.REDIS_URL:
        return Listing(), "TASKS_DEMO_REDIS_URL is not set, so no task of this project can hold a lease (dedup_lock)."
    try:
        place = lease_place(min(REPLY, settings.REDIS_TIMEOUT_SECONDS))
        if isinstance(place, Memory):
            return Listing(), "Leases are kept in the memory of one process (memory://): they cannot be listed."
        with place as client:
            return listed(client, settings.KEY_PREFIX, beginning), ""
    except (LeaseStoreUnavailable, InvalidSetting) as error:
        return Listing(), str(error)


def _row(record: LeaseRecord) -> Row:
    holder = record.holder
    badge = STATES.get(record.state) or Badge("unresolved", "?", record.state[:40], "")
    if record.state == "claimed":
        badge = EXPIRED if not record.held else STUCK if holder is not None and holder.gone else HELD
    return Row(
        operation=record.operation,
        badge=badge,
        holder=_who(holder) if holder else "",
        task_id=holder.task_id if holder else "",
        claimed_at=clock.stored(record.claimed_at) if record.claimed_at else None,
        left=duration(record.left * 1000) + (" unless renewed" if badge is HELD else "") if record.held else "",
        attempts=record.attempts,
        result=f"{record.result_bytes:,} bytes"
        if record.result_bytes
        else "none"
        if record.state == "completed"
        else "",
    )


def _who(holder: Process) -> str:
    if holder.gone:
        return f"process {holder.pid}, gone"
    if holder.where and holder.where == this_process("").where:
        return f"process {holder.pid}, exists here"
    return f"process {holder.pid} elsewhere: cannot be seen from here"


screens.register(
    screens.Screen("leases", "Leases", "leases/", view, "tasks_demo_records.view_forgottenoperation", place=54)
)
