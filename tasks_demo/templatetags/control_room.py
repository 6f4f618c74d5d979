"""Template tags of the control room's pages."""

from __future__ import annotations

from typing import Any

from django import template

from tasks_demo.dashboard import screens
from tasks_demo.dashboard.overview import Overview
from tasks_demo.dashboard.overview import overview as content

register = template.Library()


@register.inclusion_tag("admin/tasks_demo/navigation.html", takes_context=True)
def navigation(context: template.Context) -> dict[str, Any]:
    """Draw the bar that links the screens the user may see."""
    request = context.get("request")
    return {"links": screens.links(request) if request is not None else []}


@register.simple_tag(takes_context=True)
def overview(context: template.Context) -> Overview | None:
    """Return the content of the overview, for the admin's index of the app too. Returns None if the user may not see it."""
    request = context["request"]
    site = screens.site_of(request)
    return content(request, site) if site and request.user.has_perm("tasks_demo.view_tally") else None
