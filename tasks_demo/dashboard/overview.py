"""The landing page of the app: what was promised, what happened, and what needs a person now."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.admin import AdminSite
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from tasks_demo.core import clock
from tasks_demo.dashboard import live, screens
from tasks_demo.dashboard.needs import Need, needs, panels
from tasks_demo.dashboard.promises_table import Row, rows
from tasks_demo.dashboard.series import LINES, PERIODS, Point, points
from tasks_demo.ledger import rollups
from tasks_demo.ledger.rollup_models import RollupState

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Overview:
    """The content of the page. ``back``: older task IDs are not counted yet. ``stale``: the counts could not be renewed."""

    mark: str
    rows: list[Row]
    left_out: int
    total: int
    back: datetime | None
    stale: bool
    needs: list[Need]
    panels: list[tuple[str, Mapping[str, Any]]]
    period: str
    points: list[Point]
    address: str
    periods: tuple[str, ...] = tuple(PERIODS)
    lines: tuple[str, ...] = tuple(LINES.values())


def overview(request: HttpRequest, admin_site: AdminSite) -> Overview:
    """Collect the content of the page. Nothing is counted here but what is new since the last look."""
    return _drawn(request, admin_site, _State.now(request, admin_site))


def _drawn(request: HttpRequest, admin_site: AdminSite, state: _State) -> Overview:
    period = _period(request)
    known, totals = state.known, rollups.totals()
    table, left_out = rows(totals)
    return Overview(
        mark=state.mark,
        rows=table,
        left_out=left_out,
        total=sum(total["task_ids"] for total in totals),
        back=clock.moment(known.back + rollups.MINUTE) if known and known.back is not None else None,
        stale=state.stale,
        needs=state.needs,
        panels=panels(request, admin_site),
        period=period,
        points=points(period),
        address=f"{reverse('admin:tasks_demo_overview', current_app=admin_site.name)}?period={period}",
    )


@dataclass(frozen=True, slots=True)
class _State:
    """What decides whether the page has changed."""

    known: RollupState | None
    stale: bool
    needs: list[Need]
    mark: str

    @classmethod
    def now(cls, request: HttpRequest, admin_site: AdminSite) -> _State:
        stale = _folded()
        known, found = rollups.state(), needs(request, admin_site)
        return cls(known, stale, found, live.mark(_period(request), known and known.version, stale, found))


def _period(request: HttpRequest) -> str:
    asked = request.GET.get("period", "")
    return asked if asked in PERIODS else "hour"


def _folded() -> bool:
    """Bring the counts up to date. Returns whether that failed: a page of old counts is better than none."""
    try:
        rollups.fold()
    except DatabaseError:
        logger.warning("the overview's counts cannot be renewed", exc_info=True)
        return True
    return False


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
