"""The landing page of the app: what was promised, what happened, and what needs a person now."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse

from tasks_demo.dashboard import screens
from tasks_demo.dashboard.latest import Latest, latest


def overview() -> Latest:
    """Collect the content of the page."""
    return latest()


def view(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
    """Show the page. The admin's index of the app shows it too."""
    return screens.page(request, admin_site, "admin/tasks_demo/overview.html", {"title": "Overview"})


screens.register(screens.Screen("overview", "Overview", "overview/", view, place=10))
