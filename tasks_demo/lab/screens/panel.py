"""The last experiments, on the overview."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.urls import reverse

#: Runs on the overview.
MOST_SHOWN = 5


def last_experiments(request: HttpRequest, admin_site: AdminSite) -> Mapping[str, Any] | None:
    """The latest runs; None where the experiments are switched off."""
    from tasks_demo.lab.conf import settings
    from tasks_demo.lab.screens.stored_runs import latest

    if not settings.LAB_ENABLED:
        return None
    try:
        runs, more = latest(MOST_SHOWN)
    except OSError:
        return None  # the page of the experiments says why

    def address(name: str) -> str:
        return reverse(f"admin:tasks_demo_{name}", current_app=admin_site.name)

    may_run = request.user.has_perm("tasks_demo_lab.run_experiment")
    return {
        "runs": runs, "more": more, "list": address("experiments"), "learn": address("learn"),
        "new": address("experiment_new") if may_run else "",
    }  # fmt: skip
