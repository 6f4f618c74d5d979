"""The screen Failed: jobs that failed or were rejected, and which of them can be run again with the same operation key."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from tasks_demo.core.wording import shown as printable
from tasks_demo.dashboard import screens
from tasks_demo.dashboard.acts import Act, confirmation, opened, perform, preview, typed_reason
from tasks_demo.dashboard.keyset import Tallies
from tasks_demo.dashboard.pages import of_outcome
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.publishing.failed_jobs import OUTCOMES as CHOICES
from tasks_demo.publishing.failed_jobs import run_again, why_not_rerunnable

#: Maximum number of jobs on the page.
MOST_SHOWN = 50
#: Maximum number of failures read for their errors, latest first: a task ID that is used again may have any number.
MOST_READ = 1000
PERMISSION = "tasks_demo.run_again"


def view(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
    """Show the latest such jobs, or what running some of them again would do. A confirmed POST publishes."""
    outcome, task = request.GET.get("outcome", CHOICES[0]), request.GET.get("task", "").strip()
    outcome = outcome if outcome in CHOICES else CHOICES[0]
    tallies = _those(outcome, task)
    address = request.get_full_path()
    if request.method == "POST":
        made: list[str] = []
        act = _act(made)
        if not request.user.has_perm(PERMISSION):
            raise PermissionDenied
        if "sure" in request.POST:
            found = opened(request, {"again": act})
            if found is None:
                return HttpResponseRedirect(address)
            _, selection = found
            rows = Tally.objects.filter(pk__in=selection["ids"], outcome__in=CHOICES)
            if typed_reason(request):
                single = selection["ids"][0] if len(selection["ids"]) == 1 else None
                new = lambda: f"New task IDs: {', '.join(made)}." if made else ""  # noqa: E731
                perform(request, act, selection, list(rows.order_by("pk")), Tally, new, pk=single)
                return HttpResponseRedirect(address)
        elif "all" in request.POST:
            rows = tallies
        else:
            chosen = [one for one in request.POST.getlist("task_id") if "\0" not in one][:MOST_SHOWN]
            rows = tallies.filter(pk__in=chosen)
        context = {
            **confirmation(request, act, "again", preview(act, rows), address, no_reason="sure" in request.POST),
            "opts": Tally._meta,
            "media": "",
            "back": address,
        }
        return screens.page(request, admin_site, "admin/tasks_demo/failed_act.html", context)
    shown = list(tallies.order_by("-first_at", "task_id")[: MOST_SHOWN + 1])
    reasons, errors = why_not_rerunnable(shown[:MOST_SHOWN]), _errors([tally.pk for tally in shown[:MOST_SHOWN]])
    context = {
        "title": "Failed",
        "rows": [(tally, errors.get(tally.pk, ""), reasons.get(tally.pk, "")) for tally in shown[:MOST_SHOWN]],
        "truncated": len(shown) > MOST_SHOWN,
        "most": MOST_SHOWN,
        "possible": any(tally.pk not in reasons for tally in shown[:MOST_SHOWN]),
        "may": request.user.has_perm(PERMISSION),
        "outcome": outcome,
        "outcomes": CHOICES,
        "task": task[:255],
        "here": reverse("admin:tasks_demo_failed", current_app=admin_site.name),
    }
    return screens.page(request, admin_site, "admin/tasks_demo/failed.html", context)


def _those(outcome: str, task: str) -> Tallies:
    tallies = of_outcome(Tally.objects.all(), outcome)
    if not task:
        return tallies
    return tallies.none() if "\0" in task or len(task) > 255 else tallies.filter(task=task)


def _errors(task_ids: list[str]) -> dict[str, str]:
    """Return why each failed or was rejected the last time, as far as the ledger knows."""
    ends = Event.objects.filter(task_id__in=task_ids, kind__in=("failed", "rejected")).order_by("-id")
    found: dict[str, str] = {}
    for task_id, detail in ends.values_list("task_id", "detail")[:MOST_READ]:
        found.setdefault(task_id, printable(detail.get("why") or "", 200))
    return found


def _act(made: list[str]) -> Act:
    def again(tally: Tally, by: str, why: str) -> bool:
        new = run_again(tally)
        if new is None:
            return False
        made.append(new)
        return True

    return Act(
        "Run again",
        "published again",
        "A new job with the same arguments and the same operation key is published under a new task ID. What the first job has "
        "done is not undone. A pattern that knows the operation as done suppresses it.",
        PERMISSION,
        again,
        {},
        why_not_rerunnable,
        "job",
        ("-first_at", "task_id"),
    )


screens.register(screens.Screen("failed", "Failed", "failed/", view, place=62))
