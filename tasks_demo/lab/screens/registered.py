"""Registers the screens of the experiments."""

from __future__ import annotations

from tasks_demo.dashboard.screens import Screen, register
from tasks_demo.lab.conf import settings
from tasks_demo.lab.screens import views

VIEW, RUN = "tasks_demo_lab.view_experiment", "tasks_demo_lab.run_experiment"


def _enabled() -> bool:
    return bool(settings.LAB_ENABLED)


def register_screens() -> None:
    """Add them to the control room. Fixed addresses come before those with a name in them."""
    root = "experiments/"
    register(Screen("experiments", "Experiments", root, views.list_view, VIEW, place=80, enabled=_enabled))
    for name, title, path, view, permission in (
        ("experiment_new", "New experiment", "new/", views.new_view, RUN),
        ("experiment_start", "New experiment", "start/", views.start_view, RUN),
        ("experiment_compare", "Two experiments", "compare/", views.compare_view, VIEW),
        ("experiment", "Experiment", "<slug:name>/", views.page_view, VIEW),
        ("experiment_stop", "Stop an experiment", "<slug:name>/stop/", views.stop_view, RUN),
        ("experiment_download", "Download", "<slug:name>/report/<slug:kind>/", views.download_view, VIEW),
    ):
        register(Screen(name, title, root + path, view, permission, within="experiments", enabled=_enabled))
