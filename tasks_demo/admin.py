"""Django looks for an app's admin here. The screens are in ``tasks_demo.dashboard``.

The screen of the doctor is here, because the dashboard does not know the doctor.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from django.apps import apps
from django.contrib import messages
from django.contrib.admin import AdminSite
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from tasks_demo.core import clock
from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.core.wording import counted
from tasks_demo.dashboard import (  # noqa: F401  (they register themselves)
    built_in_needs,
    needs,
    publish,
    screens,
    task_ids,
    workers,
)
from tasks_demo.doctor import State, examine

if apps.is_installed("tasks_demo.records"):
    from tasks_demo.dashboard import (  # noqa: F401  (register their tables)
        dead_letters,
        failed,
        leases,
        operations,
        outbox,
        parked,
    )

#: Where the doctor's last rows are kept, and for how long, seconds. Without a shared cache each web process has its own.
_KEY, _KEPT = "tasks_demo.doctor", 86_400


def servers(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
    """Show what the doctor found last. A POST asks the servers again, which takes seconds."""
    if request.method == "POST":
        try:
            rows = [(row.part, row.what, row.state.value, row.seen, row.fix) for row in examine()]
        except EnvironmentNotReady as error:
            messages.error(request, str(error))
        else:
            cache.set(_KEY, (time.time(), rows), _KEPT)
        return HttpResponseRedirect(reverse("admin:tasks_demo_servers", current_app=admin_site.name))
    at, rows = cache.get(_KEY) or (None, [])
    context: dict[str, Any] = {"title": "Servers", "rows": rows, "at": None if at is None else clock.from_epoch(at)}
    return screens.page(request, admin_site, "admin/tasks_demo/servers.html", context)


def _red(request: HttpRequest, admin_site: AdminSite) -> Sequence[needs.Need]:
    _, rows = cache.get(_KEY) or (None, [])
    count = sum(state == State.FAIL for _, _, state, _, _ in rows)
    if not count:
        return []
    address = reverse("admin:tasks_demo_servers", current_app=admin_site.name)
    return [
        needs.Need(f"The doctor failed {counted(count, 'part')} of the servers", "See what it says to do.", address)
    ]


screens.register(screens.Screen("servers", "Servers", "servers/", servers, place=45))
needs.register("servers", _red)
