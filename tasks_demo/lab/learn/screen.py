"""The Learn screen of the dashboard, and the same page as one HTML file. Both are rendered once, because recordings do not
change."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from tasks_demo.dashboard import screens
from tasks_demo.dashboard.standalone import script, styles

STYLES = ("tasks_demo/dashboard.css", "tasks_demo/swimlanes.css", "tasks_demo/learn.css")
SCRIPT = "tasks_demo/learn.js"


@cache
def body() -> SafeString:
    """The part that the screen and the file share, as HTML."""
    # Imported here, because every process that has the admin imports this module, workers too, and few show the page.
    from tasks_demo.lab.learn.content import content
    from tasks_demo.lab.learn.recording import read

    return render_to_string("admin/tasks_demo/learn_body.html", {"learn": content(read())})


def view(request: HttpRequest, admin_site: AdminSite, **_: Any) -> HttpResponse:
    """Answer with the screen."""
    return screens.page(request, admin_site, "admin/tasks_demo/learn.html", {"title": "Learn", "body": body()})


def as_file() -> str:
    """Return the page as one HTML document that loads nothing. Raises OSError."""
    return render_to_string(
        "admin/tasks_demo/learn_file.html",
        {"body": body(), "style": styles(*STYLES), "script": script(SCRIPT)},
    )
