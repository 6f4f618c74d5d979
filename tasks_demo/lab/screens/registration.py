"""Registers the screens of the experiments."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse

from tasks_demo.dashboard.needs import Panel, register_panel
from tasks_demo.dashboard.screens import Screen, View, register
from tasks_demo.lab.conf import settings
from tasks_demo.lab.screens.panel import last_experiments

VIEW, RUN = "tasks_demo_lab.view_experiment", "tasks_demo_lab.run_experiment"


def register_screens() -> None:
    """Add them to the control room. Fixed addresses come before those with a name in them."""
    root = "experiments/"
    register(Screen("experiments", "Experiments", root, _view("list_view"), VIEW, place=80, enabled=_enabled))
    for name, title, path, view, permission in (
        ("experiment_new", "New experiment", "new/", "new_view", RUN),
        ("experiment_start", "New experiment", "start/", "start_view", RUN),
        ("experiment_compare", "Two experiments", "compare/", "compare_view", VIEW),
        ("experiment", "Experiment", "<slug:name>/", "page_view", VIEW),
        ("experiment_stop", "Stop an experiment", "<slug:name>/stop/", "stop_view", RUN),
        ("experiment_download", "Download", "<slug:name>/report/<slug:kind>/", "download_view", VIEW),
    ):
        register(Screen(name, title, root + path, _view(view), permission, within="experiments", enabled=_enabled))
    register_panel("experiments", Panel("admin/tasks_demo_lab/panel.html", last_experiments), VIEW)


def _enabled() -> bool:
    return bool(settings.LAB_ENABLED)


def _view(name: str) -> View:
    """A view that is imported with the first request: no other process of the project needs the reports."""

    def view(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
        from tasks_demo.lab.screens import views

        answer: HttpResponse = getattr(views, name)(request, admin_site, **kwargs)
        return answer

    return view
