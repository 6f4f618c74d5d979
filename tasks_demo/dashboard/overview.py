"""The landing page of the app: what was promised, what happened, and what needs a person now."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.timezone import get_current_timezone_name
from django.utils.translation import get_language

from tasks_demo.core import clock
from tasks_demo.dashboard import live, needs, screens
from tasks_demo.dashboard.needs import AnswerCache
from tasks_demo.dashboard.promises_table import rows
from tasks_demo.dashboard.series import LINES, PERIODS, points
from tasks_demo.ledger import rollups
from tasks_demo.ledger.rollup_models import RollupState

#: Counts that are older than this, in seconds, while the ledger has newer events, are called old.
OLD_SECONDS = 60.0
#: Screens that are useful while the ledger is empty, and what they do.
FIRST_STEPS = {
    "learn": "See what a kill does to a job, and why acks_late charges twice: played back from real runs.",
    "experiments": "Kill workers yourself, and see what was charged.",
    "publish": "Publish a job, once or twice.",
}


@dataclass(frozen=True, slots=True)
class Overview:
    """The page's live part as HTML, the address that it polls, and the mark of what it shows."""

    parts: str
    address: str
    mark: str


#: Seconds for which the live part that was drawn last answers all polls: twenty open dashboards draw it no more often than one.
#: At most the shortest interval between two polls: within one server process, no poll shows what is older than its page.
SHARED_SECONDS = 1.0
_drawn: AnswerCache[Overview] = AnswerCache(SHARED_SECONDS)
#: The table of the rows and the series over time: whether there is a row, and the HTML. They take longest to draw, are the same
#: for all users, and what each is kept for tells everything that it depends on, but the clock, which goes by minutes here.
_counts: AnswerCache[tuple[bool, str]] = AnswerCache(10.0)


def overview(request: HttpRequest, admin_site: AdminSite, *, shared: bool = False) -> Overview:
    """Collect the content of the page. Nothing is counted here and nothing is written (docs/decisions/0059).

    ``shared``: what was drawn within SHARED_SECONDS will do, for anybody who sees the same.
    """
    period, here = _period(request), _reversed("overview", admin_site)
    # All that the live part depends on, but the data and the clock.
    about = (admin_site, here, period, _permissions(request), get_language(), get_current_timezone_name())
    return _drawn.get(lambda: _draw(request, admin_site, period, here), about, refresh=not shared)


def _permissions(request: HttpRequest) -> frozenset[str]:
    """Return those of the user that decide what a part shows."""
    names = needs.permissions() | {screen.permission for screen in screens.registered()}
    return frozenset(name for name in names if request.user.has_perm(name))


def _draw(request: HttpRequest, admin_site: AdminSite, period: str, here: str) -> Overview:
    progress, found = rollups.state(), needs.needs(request, admin_site)
    old = progress is None or time.time() - progress.folded_at > OLD_SECONDS
    missing = rollups.missing(progress) if old else 0
    has_rows, counts = _counted(admin_site, period, here, progress)
    content = {
        # Older task IDs are not counted yet.
        "backfilled_to": _backfilled_to(progress),
        "counted": _when(progress),
        # Events since then that are not counted; 0 while somebody counts.
        "missing": missing,
        "counts": counts if has_rows or missing else "",
        "first_steps": [] if has_rows or missing else _first_steps(request, admin_site),
        "needs": found,
        "checked_names": needs.checked_names(request),
        "panels": needs.panels(request, admin_site),
    }
    # Drawn without the request: no template can show to all what belongs to one.
    parts = render_to_string("admin/tasks_demo/overview_parts.html", content)
    # Two digits of it, so that a page that nobody counts for does not change with every event.
    mark = live.mark(period, progress and progress.version, f"{missing:.1e}", found)
    return Overview(parts, f"{here}?period={period}", mark)


def _counted(admin_site: AdminSite, period: str, here: str, progress: RollupState | None) -> tuple[bool, str]:
    shown = {
        "list": _reversed("tally_changelist", admin_site), "here": here, "counted": _when(progress), "chosen": period,
    }  # fmt: skip
    about = (
        *shown.values(),
        progress and (progress.version, progress.folded_at, progress.backfill_minute),
        get_language(),
        get_current_timezone_name(),
    )

    def draw() -> tuple[bool, str]:
        totals = rollups.totals()
        table, left_out = rows(totals)
        total = sum(total["task_ids"] for total in totals)
        content = {
            **shown, "rows": table, "left_out": left_out, "total": total, "points": points(period),
            "periods": tuple(PERIODS), "lines": tuple(LINES.values()),
        }  # fmt: skip
        return bool(table), render_to_string("admin/tasks_demo/overview_counts.html", content)

    return _counts.get(draw, about)


def _backfilled_to(progress: RollupState | None) -> datetime | None:
    if progress is None or progress.backfill_minute is None:
        return None
    return clock.from_epoch(progress.backfill_minute + rollups.MINUTE)


def _when(progress: RollupState | None) -> datetime | None:
    return clock.from_epoch(progress.folded_at) if progress and progress.folded_at else None


def _reversed(name: str, admin_site: AdminSite) -> str:
    return reverse(f"admin:tasks_demo_{name}", current_app=admin_site.name)


def _first_steps(request: HttpRequest, admin_site: AdminSite) -> list[tuple[str, str, str]]:
    known = {screen.name: screen for screen in screens.registered() if screen.seen_by(request)}
    return [
        (known[name].title, _reversed(name, admin_site), purpose)
        for name, purpose in FIRST_STEPS.items()
        if name in known
    ]


def _period(request: HttpRequest) -> str:
    asked = request.GET.get("period", "")
    return asked if asked in PERIODS else "hour"


def view(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
    """Show the page, or what of it has changed. The admin's index of the app shows it too."""
    if not live.is_poll(request):
        return screens.page(request, admin_site, "admin/tasks_demo/overview.html", {"title": "Overview"})
    shown = overview(request, admin_site, shared=True)
    return live.respond(request, shown.mark, lambda: HttpResponse(shown.parts))


screens.register(screens.Screen("overview", "Overview", "overview/", view, place=10))
