"""The views of the experiments. The registry of the screens has checked the setting and the permission before it calls one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import reverse

from tasks_demo.dashboard import live, screens
from tasks_demo.lab.models import Experiment
from tasks_demo.lab.plan.cells import LANES
from tasks_demo.lab.processes.run_folder import EVENTS
from tasks_demo.lab.reports import document
from tasks_demo.lab.screens import stored_runs
from tasks_demo.lab.screens.chart import chart
from tasks_demo.lab.screens.choices import Choices
from tasks_demo.lab.screens.comparison import HEAD, compare
from tasks_demo.lab.screens.findings import findings
from tasks_demo.lab.screens.presets import PRESETS
from tasks_demo.lab.screens.run_process import MOST_KEPT, RequestRefused, start, stop

TEMPLATES = "admin/tasks_demo_lab"
#: Downloads: the end of the file's name, its type, and the function that builds it from the result.
REPORTS: dict[str, tuple[str, str, Callable[[dict[str, Any], Path], str]]] = {
    "json": ("json", "application/json", lambda result, _: document.as_json(result)),
    "junit": ("xml", "application/xml", lambda result, _: document.as_junit(result)),
    "markdown": ("md", "text/markdown", lambda result, _: document.as_markdown(result)),
    "html": ("html", "text/html", document.as_html),
}


def list_view(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
    """The latest runs, of this page and of the command line."""
    trouble = ""
    try:
        runs, more = stored_runs.latest()
    except OSError as error:
        runs, more, trouble = [], False, f"{error.filename} cannot be read: {error.strerror}."
    context = {
        "title": "Experiments",
        "runs": runs,
        "more": more,
        "trouble": trouble,
        "most_kept": MOST_KEPT,
        "comparable": sum(run.state == "finished" for run in runs) > 1,
        "may_run": _may_run(request),
    }
    return screens.page(request, admin_site, f"{TEMPLATES}/list.html", context)


def new_view(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
    """The form, and below it the plan of what was chosen. Starts nothing."""
    return _form(request, admin_site, Choices(request.GET) if request.GET else Choices())


def _form(request: HttpRequest, admin_site: AdminSite, form: Choices, status: int = 200) -> HttpResponse:
    planned = form.is_bound and form.is_valid()
    context = {
        "title": "New experiment",
        "form": form,
        "planned": planned,
        "lanes": LANES,
        "presets": PRESETS,
        "chosen": next((preset for preset in PRESETS if planned and preset.is_chosen(form.cleaned_data)), None),
    }
    return screens.page(request, admin_site, f"{TEMPLATES}/new.html", context, status=status)


def start_view(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
    """Start what was chosen, and go to its page."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    form = Choices(request.POST)
    if not form.is_valid():
        return _form(request, admin_site, form, 400)
    try:
        name = start(form, request.user.get_username())
    except RequestRefused as error:
        messages.error(request, str(error))
        return _form(request, admin_site, form, 409)
    _log(request, name, ADDITION, f"Started: {form.command()}")
    return _to(admin_site, "experiment", name)


def page_view(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
    """One run: live while it runs, then its result."""
    run = _found(kwargs["name"])
    over = not run.alive
    now = live.mark(run.status, run.state)
    context = {
        "title": f"Experiment, seed {run.seed}",
        "run": run,
        "over": over,
        "mark": now,
        "chart": chart(run.status.get("samples", [])),
        "may_stop": run.alive and run.status and run.started_here and _may_run(request),
    }

    def draw(template: str) -> HttpResponse:
        result = run.result if over else None
        more = {
            "result": result,
            "findings": findings(result) if result else None,
            "others": [
                other for other in stored_runs.latest()[0] if other.name != run.name and other.state == "finished"
            ][:20],
            "may_view_tasks": request.user.has_perm("tasks_demo.view_tally"),
        }
        return screens.page(request, admin_site, template, {**context, **(more if over else {})})

    if live.is_poll(request):
        return live.respond(request, now, lambda: draw(f"{TEMPLATES}/state.html"), done=over)
    return draw(f"{TEMPLATES}/page.html")


def stop_view(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
    """Ask, and with POST stop the run."""
    run = _found(kwargs["name"])
    if request.method != "POST":
        ended = sum(cell["state"] in ("done", "unknown") for cell in run.cells)
        context = {"title": "Stop the experiment?", "run": run, "ended": ended}
        return screens.page(request, admin_site, f"{TEMPLATES}/stop.html", context)
    try:
        stop(run.folder)
    except RequestRefused as error:
        messages.error(request, str(error))
    else:
        _log(request, run.name, CHANGE, "Stopped (SIGINT).")
        messages.success(request, "It was asked to stop. It ends its workers and keeps what was recorded until then.")
    return _to(admin_site, "experiment", run.name)


def download_view(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
    """A report of the result, or the whole history, as a file."""
    run, kind = _found(kwargs["name"]), kwargs["kind"]
    if kind == "events":
        try:
            file = (run.folder / EVENTS).open("rb")
        except OSError:
            raise Http404("This run has left no history.") from None
        return FileResponse(file, as_attachment=True, filename=f"{run.name}.jsonl", content_type="application/jsonl")  # type: ignore[return-value]
    if kind not in REPORTS or run.result is None:
        raise Http404("This run has left no result.")
    suffix, content_type, write = REPORTS[kind]
    response = HttpResponse(write(run.result, run.folder / EVENTS), content_type=f"{content_type}; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{run.name}.{suffix}"'
    return response


def compare_view(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
    """Two runs side by side, cell by cell."""
    one, other = (_found(request.GET.get(key, "")) for key in ("one", "other"))
    context = {
        "title": "Two experiments",
        "runs": (one, other),
        "head": HEAD,
        "rows": compare(one.result, other.result) if one.result and other.result else [],
    }
    return screens.page(request, admin_site, f"{TEMPLATES}/compare.html", context)


def _found(name: str) -> stored_runs.StoredRun:
    run = stored_runs.find(name)
    if run is None:
        raise Http404("There is no such experiment.")
    return run


def _may_run(request: HttpRequest) -> bool:
    return request.user.has_perm("tasks_demo_lab.run_experiment")


def _to(admin_site: AdminSite, screen: str, name: str) -> HttpResponse:
    return HttpResponseRedirect(
        reverse(f"admin:tasks_demo_{screen}", kwargs={"name": name}, current_app=admin_site.name)
    )


def _log(request: HttpRequest, name: str, action: int, message: str) -> None:
    LogEntry.objects.create(
        user_id=request.user.pk,  # type: ignore[misc]  # only users with a permission get here
        content_type=ContentType.objects.get_for_model(Experiment),
        object_id=name,
        object_repr=f"experiment {name}"[:200],
        action_flag=action,
        change_message=message,
    )
