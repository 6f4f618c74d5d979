"""The landing page of the app: what was promised, what happened, and what needs a person now."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.timezone import get_current_timezone_name
from django.utils.translation import get_language

from tasks_demo.core import clock
from tasks_demo.dashboard import live, screens
from tasks_demo.dashboard.needs import Kept, Need, looked_at, needs, panels
from tasks_demo.dashboard.promises_table import Row, rows
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
    """The content of the page. ``back``: older task IDs are not counted yet. ``missing``: events since ``counted`` that are not
    counted; 0 while somebody counts.
    """

    mark: str
    rows: list[Row]
    back: datetime | None
    counted: datetime | None
    missing: int
    needs: list[Need]
    looked_at: list[str]
    panels: list[tuple[str, Mapping[str, Any]]]
    address: str
    #: Title, address and purpose of what to do while the ledger is empty.
    first_steps: list[tuple[str, str, str]]
    #: The table of the rows and the series over time, as HTML.
    counts: str


@dataclass(frozen=True, slots=True)
class _Counts:
    """What all users see alike, and what takes longest to draw."""

    rows: list[Row]
    html: str


#: By period. The text that each is kept for tells everything that it depends on, but the clock.
_counts: dict[str, Kept[_Counts]] = {period: Kept(2.0) for period in PERIODS}


def overview(request: HttpRequest, admin_site: AdminSite) -> Overview:
    """Collect the content of the page. Nothing is counted here and nothing is written (docs/decisions/0059)."""
    return _drawn(request, admin_site, _State.now(request, admin_site))


def _drawn(request: HttpRequest, admin_site: AdminSite, state: _State) -> Overview:
    known, counts = state.known, _counted(request, admin_site, state)
    return Overview(
        mark=state.mark,
        rows=counts.rows,
        back=clock.moment(known.back + rollups.MINUTE) if known and known.back is not None else None,
        counted=_when(known),
        missing=state.missing,
        needs=state.needs,
        looked_at=looked_at(request),
        panels=panels(request, admin_site),
        address=f"{_reversed('overview', admin_site)}?period={_period(request)}",
        first_steps=[] if counts.rows or state.missing else _first_steps(request, admin_site),
        counts=counts.html,
    )


def _counted(request: HttpRequest, admin_site: AdminSite, state: _State) -> _Counts:
    period, known = _period(request), state.known
    shown = {
        "list": _reversed("tally_changelist", admin_site),
        "here": _reversed("overview", admin_site),
        "counted": _when(known),
        "chosen": period,
    }
    about = (shown, known and (known.version, known.folded, known.back), get_language(), get_current_timezone_name())

    def draw() -> _Counts:
        totals = rollups.totals()
        table, left_out = rows(totals)
        total = sum(total["task_ids"] for total in totals)
        content = {
            **shown, "rows": table, "left_out": left_out, "total": total, "points": points(period),
            "periods": tuple(PERIODS), "lines": tuple(LINES.values()),
        }  # fmt: skip
        return _Counts(table, render_to_string("admin/tasks_demo/overview_counts.html", content))

    return _counts[period].get(draw, repr(about))


def _when(known: RollupState | None) -> datetime | None:
    return clock.moment(known.folded) if known and known.folded else None


def _reversed(name: str, admin_site: AdminSite) -> str:
    return reverse(f"admin:tasks_demo_{name}", current_app=admin_site.name)


def _first_steps(request: HttpRequest, admin_site: AdminSite) -> list[tuple[str, str, str]]:
    known = {screen.name: screen for screen in screens.registered() if screen.seen_by(request)}
    return [
        (known[name].title, _reversed(name, admin_site), purpose)
        for name, purpose in FIRST_STEPS.items()
        if name in known
    ]


@dataclass(frozen=True, slots=True)
class _State:
    """What decides whether the page has changed."""

    known: RollupState | None
    missing: int
    needs: list[Need]
    mark: str

    @classmethod
    def now(cls, request: HttpRequest, admin_site: AdminSite) -> _State:
        known, found = rollups.state(), needs(request, admin_site, shared=live.is_poll(request))
        old = known is None or time.time() - known.folded > OLD_SECONDS
        missing = rollups.missing(known) if old else 0
        # Two digits of it, so that a page that nobody counts for is not drawn anew with every event.
        return cls(known, missing, found, live.mark(_period(request), known and known.version, f"{missing:.1e}", found))


def _period(request: HttpRequest) -> str:
    asked = request.GET.get("period", "")
    return asked if asked in PERIODS else "hour"


def view(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
    """Show the page, or what of it has changed. The admin's index of the app shows it too."""
    if not live.is_poll(request):
        return screens.page(request, admin_site, "admin/tasks_demo/overview.html", {"title": "Overview"})
    state = _State.now(request, admin_site)

    def draw() -> HttpResponse:
        content = _drawn(request, admin_site, state)
        return render(request, "admin/tasks_demo/overview_parts.html", {"overview": content})

    return live.respond(request, state.mark, draw)


screens.register(screens.Screen("overview", "Overview", "overview/", view, place=10))
