"""Registers the dashboard in the Django admin. It is read-only, because evidence is not edited."""

from __future__ import annotations

import time
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.safestring import SafeString

from tasks_demo.core import clock
from tasks_demo.core.exceptions import DeliveryError
from tasks_demo.dashboard import export, overview, screens  # noqa: F401  (overview registers its screen)
from tasks_demo.dashboard.changelist import TaskIdList
from tasks_demo.dashboard.filters import FILTERS, understood
from tasks_demo.dashboard.keyset import Tallies
from tasks_demo.dashboard.labels import BROKEN, badge_element, outcome_badge, verdict_badge
from tasks_demo.dashboard.latest import latest
from tasks_demo.dashboard.refresh import freshness
from tasks_demo.dashboard.search import all_matching, matching
from tasks_demo.dashboard.tables import ReadOnlyAdmin
from tasks_demo.dashboard.task_page import counts_needing_attention, task_page
from tasks_demo.dashboard.times import time_element
from tasks_demo.ledger.models import Tally
from tasks_demo.ledger.queries import RECENT, gaps
from tasks_demo.ledger.reading import read_books
from tasks_demo.ledger.rollups import fold

#: Maximum time for which the button counts, seconds.
COUNT_SECONDS = 2.0
#: The pages need the width of the admin's sidebar.
_WIDE = {"is_nav_sidebar_enabled": False}


@admin.register(Tally)
class TallyAdmin(ReadOnlyAdmin):
    """The list of task IDs, and the page of one task ID."""

    list_display = (
        "identity",
        "of_task",
        "outcome_sign",
        "sign",
        "deliveries_n",
        "executions_n",
        "effects_n",
        "suppressed_n",
        "where",
        "first_seen",
    )
    list_filter = FILTERS
    sortable_by = ()
    search_fields = ("task_id", "operation", "task")
    search_help_text = "A task ID, an operation, the name of a task or of a worker, or the beginning of one."
    list_max_show_all = 0
    # The page of a task ID does not need them, and to add them to 50 links takes an eighth of the list's time.
    preserve_filters = False
    show_facets = admin.ShowFacets.NEVER
    actions = None

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return TaskIdList

    def get_search_results(self, request: HttpRequest, queryset: Tallies, search_term: str) -> tuple[Tallies, bool]:
        if getattr(request, "is_export", False):
            return all_matching(queryset, search_term), False
        found, truncated = matching(queryset, search_term)
        request.truncated = truncated or getattr(request, "truncated", False)  # type: ignore[attr-defined]  # for the list, which is created after this
        return found, False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        request.GET = understood(request.GET)  # type: ignore[assignment]
        found = latest()
        request.latest = found  # type: ignore[attr-defined]  # the filters offer its tasks and runs
        context = {
            **_WIDE,
            "title": "Task IDs",
            "freshness": freshness(),
            "gaps": gaps(clock.from_epoch(time.time() - RECENT)),
            "latest": found,
            **(extra_context or {}),
        }
        return super().changelist_view(request, context)

    def get_urls(self) -> list[URLPattern]:
        read = path("books/", self.admin_site.admin_view(self.read_books_view), name="tasks_demo_read_books")
        exports = [
            path(
                f"export.{form}",
                self.admin_site.admin_view(self.export_view),
                {"form": form},
                name=f"tasks_demo_{form}",
            )
            for form in export.FORMATS
        ]
        return [read, *exports, *screens.urls(self.admin_site), *super().get_urls()]

    def export_view(self, request: HttpRequest, form: str) -> HttpResponseBase:
        """Download what the list's filters and search let through, all of it."""
        if request.method not in {"GET", "HEAD"} or not self.has_view_permission(request):
            raise PermissionDenied
        request.GET = understood(request.GET)  # type: ignore[assignment]
        request.is_export = True  # type: ignore[attr-defined]
        return export.response(self.get_changelist_instance(request).queryset, form)

    def _list(self) -> str:
        return reverse("admin:tasks_demo_tally_changelist", current_app=self.admin_site.name)

    def read_books_view(self, request: HttpRequest) -> HttpResponse:
        """Read the books and count now (the button of the pages), then redirect to the page of origin."""
        if request.method != "POST" or not self.has_view_permission(request):
            raise PermissionDenied
        try:
            states = read_books()
            done = fold(COUNT_SECONDS)
        except (DeliveryError, DatabaseError) as error:
            messages.error(request, f"Not everything was read and counted: {str(error).partition(chr(10))[0]}")
        else:
            if troubled := [state.name for state in states if state.trouble]:
                messages.warning(request, f"Could not be read: {', '.join(troubled)}.")
            elif states:
                messages.success(request, "The books were read.")
            if done:
                messages.success(request, "All task IDs are counted.")
            else:
                messages.warning(
                    request, f"Counted for {COUNT_SECONDS:g} s, and there is more: press the button again."
                )
        back = request.POST.get("next", "")
        if not url_has_allowed_host_and_scheme(back, {request.get_host()}, request.is_secure()):
            back = self._list()
        return HttpResponseRedirect(back)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if request.method not in {"GET", "HEAD"} or not self.has_view_permission(request):
            raise PermissionDenied
        task_id = unquote(object_id)
        tally = None if "\0" in task_id else Tally.objects.filter(task_id=task_id).first()
        if tally is None:
            messages.warning(request, f"The ledger knows no task ID “{task_id[:255]}”.")
            return HttpResponseRedirect(self._list())
        context = {
            "opts": self.opts,
            "title": "Task ID",
            "subtitle": tally.task_id,
            "task_page": task_page(tally),
            "freshness": freshness(),
            **(extra_context or {}),
        }
        return screens.page(request, self.admin_site, "admin/tasks_demo/tally/task.html", context)

    @admin.display(description="task ID")
    def identity(self, tally: Tally) -> str:
        return tally.task_id

    @admin.display(description="task, pattern")
    def of_task(self, tally: Tally) -> SafeString:
        return format_html('{}<span class="quiet">{}</span>', tally.task, tally.pattern or "(no pattern)")

    @admin.display(description="outcome")
    def outcome_sign(self, tally: Tally) -> SafeString:
        return badge_element(outcome_badge(tally.outcome, tally.verdict))

    @admin.display(description="deliveries")
    def deliveries_n(self, tally: Tally) -> int:
        return tally.deliveries

    @admin.display(description="executions")
    def executions_n(self, tally: Tally) -> SafeString:
        return _number(tally.executions, stressed="executions" in counts_needing_attention(tally))

    @admin.display(description="effects")
    def effects_n(self, tally: Tally) -> SafeString:
        return _number(tally.effects, stressed="effects" in counts_needing_attention(tally))

    @admin.display(description="suppressed")
    def suppressed_n(self, tally: Tally) -> int:
        return tally.suppressed

    @admin.display(description="verdict")
    def sign(self, tally: Tally) -> SafeString:
        verdict = badge_element(verdict_badge(tally))
        return format_html("{}{}", verdict, badge_element(BROKEN) if tally.broken else "")

    @admin.display(description="last worker, run")
    def where(self, tally: Tally) -> SafeString:
        worker = getattr(tally, "last_worker", "")
        return format_html('{}<span class="quiet">{}</span>' if tally.run else "{}", worker, tally.run)

    @admin.display(description="first seen")
    def first_seen(self, tally: Tally) -> SafeString:
        return time_element(tally.first_at)


screens.register_list("Task IDs", Tally, place=20)


def _number(value: int, *, stressed: bool) -> SafeString:
    return format_html('<strong class="loud">{}</strong>' if stressed else "{}", value)
