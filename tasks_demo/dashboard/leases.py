"""The screen of leases: which operations are held, by which process, since when and until when, and which are completed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from tasks_demo.core import clock
from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import InvalidSetting, LeaseStoreUnavailable
from tasks_demo.core.wording import counted
from tasks_demo.dashboard import needs, screens
from tasks_demo.dashboard.holds import HELD, STUCK, holds, who
from tasks_demo.dashboard.labels import Badge
from tasks_demo.dashboard.swimlanes import duration
from tasks_demo.leases.listing import LeaseRecord, Listing, listed
from tasks_demo.leases.memory_store import Memory
from tasks_demo.leases.stores import lease_place

#: Maximum time to wait for one reply of Redis, seconds.
REPLY = 0.5
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
        "truncated": listing.truncated,
        "trouble": trouble,
        "others": [] if beginning else holds(),
    }
    return screens.page(request, admin_site, "admin/tasks_demo/leases.html", context)


#: What the overview has seen, repeated for ten seconds.
_looked = needs.AnswerCache[tuple[Listing, str]](10.0)


def stuck(request: HttpRequest, admin_site: AdminSite) -> Sequence[needs.Need]:
    """Tell how many operations nobody works on although a claim holds them. Asks Redis at most every ten seconds."""
    if not _can_be_listed():
        return []
    listing, trouble = _looked.get(lambda: _listing(""), place=f"{settings.REDIS_URL} {settings.KEY_PREFIX}")
    address = reverse("admin:tasks_demo_leases", current_app=admin_site.name)
    if trouble:
        return [needs.Need("Leases cannot be read", trouble, address)]
    count = sum(_badge(record) in (STUCK, EXPIRED) for record in listing.records)
    if not count:
        return []
    what = f"{counted(count, 'operation')} held by a claim that nobody works on"
    return [needs.Need(what, "The next delivery takes it over. See whether one comes.", address)]


def _can_be_listed() -> bool:
    return bool(settings.REDIS_URL) and not settings.REDIS_URL.startswith("memory:")


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


def _badge(record: LeaseRecord) -> Badge:
    if record.state != "claimed":
        return STATES.get(record.state) or Badge("unresolved", "?", record.state[:40], "")
    return EXPIRED if not record.held else STUCK if record.holder is not None and record.holder.gone else HELD


def _row(record: LeaseRecord) -> Row:
    holder, badge = record.holder, _badge(record)
    return Row(
        operation=record.operation,
        badge=badge,
        holder=who(holder) if holder else "",
        task_id=holder.task_id if holder else "",
        claimed_at=clock.for_column(record.claimed_at) if record.claimed_at else None,
        left=duration(record.left * 1000) + (" unless renewed" if badge is HELD else "") if record.held else "",
        attempts=record.attempts,
        result=f"{record.result_bytes:,} bytes"
        if record.result_bytes
        else "none"
        if record.state == "completed"
        else "",
    )


needs.register("leases", stuck, "tasks_demo_records.view_forgottenoperation")
screens.register(
    screens.Screen("leases", "Leases", "leases/", view, "tasks_demo_records.view_forgottenoperation", place=54)
)
