"""The screen Publish: a form for one job of a task that the project allows, once or twice as after a double click.

The task IDs follow from the form, and its entry in the log is committed first: a form that is sent twice publishes once.
"""

from __future__ import annotations

import re
import uuid
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.contrib.admin.utils import quote
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from tasks_demo.core.exceptions import EnvironmentNotReady, InvalidSetting, PublicationRefused
from tasks_demo.core.wording import shown
from tasks_demo.dashboard import audit, screens
from tasks_demo.dashboard.labels import promise
from tasks_demo.ledger.models import Tally
from tasks_demo.patterns.base import PatternTask
from tasks_demo.publishing.parsing import MOST_BYTES, example, job_of, signature_of
from tasks_demo.publishing.publishable import publishable, registered
from tasks_demo.publishing.sending import send

#: Task IDs as this screen makes them.
_ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


def view(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
    """Show the tasks, the form of one, or what a form has published. A POST publishes."""
    names = publishable()
    context: dict[str, Any] = {"title": "Publish", "tasks": [_described(name) for name in names]}
    if request.method == "POST":
        context |= {"text": request.POST.get("arguments", ""), "operation": request.POST.get("operation", "")}
        context["twice"] = "twice" in request.POST
        try:
            return _publish(request, admin_site)
        except (PublicationRefused, EnvironmentNotReady) as error:
            context["error"] = shown(error, 2000)
    done = request.GET.get("done", "")
    entry = audit.sent(request, done) if re.fullmatch(r"[0-9a-f]{32}", done) else None
    if entry is not None:
        context |= _result(entry, request, admin_site)
    name = (request.POST if request.method == "POST" else request.GET).get("task", "")
    if name in names:
        context["chosen"] = _described(name)
        context.setdefault("text", example(registered(name)))
        context |= {"token": uuid.uuid4().hex, "most_bytes": MOST_BYTES}
    elif name and "error" not in context:
        context["error"] = "This task may not be published here."
    status = 400 if request.method == "POST" else 200
    return screens.page(request, admin_site, "admin/tasks_demo/publish.html", context, status=status)


def _publish(request: HttpRequest, admin_site: AdminSite) -> HttpResponse:
    token, twice = request.POST.get("token", ""), "twice" in request.POST
    if not re.fullmatch(r"[0-9a-f]{32}", token):
        raise PublicationRefused("Nothing was published: the form is incomplete. Send it again.")
    job = job_of(
        request.POST.get("task", ""), request.POST.get("arguments", ""), request.POST.get("operation", ""), twice=twice
    )
    often = "twice" if twice else "once"
    entry = audit.begin(request, Tally, f"Publish {job.task.name} {often}", token)
    if entry is None:
        messages.warning(request, "This form was sent before. It has published once; nothing more was published.")
    else:
        task_ids = [str(uuid.uuid5(uuid.UUID(token), str(number))) for number in range(2 if twice else 1)]
        try:
            send(job, task_ids)
        except Exception as error:
            audit.finish(entry, f"Failed: {error}", token)
            raise
        key = f"Operation: {job.operation}. " if job.operation else ""
        audit.finish(entry, f"Published {job.task.name} {often}. {key}Task IDs: {' '.join(task_ids)}.", token)
    query = urlencode({"done": token, "task": job.task.name})
    return HttpResponseRedirect(f"{reverse('admin:tasks_demo_publish', current_app=admin_site.name)}?{query}")


def _result(entry: Any, request: HttpRequest, admin_site: AdminSite) -> dict[str, Any]:
    said, _, ids = audit.result_of(entry).rpartition("Task IDs: ")
    linked = request.user.has_perm("tasks_demo.view_tally")
    links = [
        (
            one,
            reverse("admin:tasks_demo_tally_change", args=[quote(one)], current_app=admin_site.name) if linked else "",
        )
        for one in _ID.findall(ids)
    ]
    return {"said": said or ids, "links": links}


def _described(name: str) -> dict[str, Any]:
    task = registered(name)
    pattern = task.pattern if isinstance(task, PatternTask) else ""
    return {
        "name": name,
        "pattern": pattern,
        "promise": promise(pattern),
        "signature": signature_of(task),
        "has_key": isinstance(task, PatternTask) and task.operation is not None,
        "what": (task.__doc__ or "").strip().partition("\n")[0].replace("``", "")[:200]
        if task.__doc__ != type(task).__base__.__doc__
        else "",
    }


def _enabled() -> bool:
    try:
        return bool(publishable())
    except InvalidSetting:  # the system check names it
        return False


screens.register(
    screens.Screen("publish", "Publish", "publish/", view, "tasks_demo.publish_job", place=70, enabled=_enabled)
)
