"""Forgotten operations in the Django admin: what was forgotten, by whom and why; and the page that forgets an operation."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.http import urlencode

from tasks_demo.core.exceptions import EnvironmentNotReady, InvalidOperationKey, OperationHeld, UnknownTask
from tasks_demo.dashboard import screens
from tasks_demo.dashboard.tables import RecordsAdmin
from tasks_demo.dashboard.times import time_column
from tasks_demo.operations import OperationRecords, find_records, forget
from tasks_demo.records.models import ForgottenOperation

screens.register_list("Operations", ForgottenOperation, place=55)


@admin.register(ForgottenOperation)
class ForgottenOperationAdmin(RecordsAdmin):
    """Read-only list and page of forgotten operations, and ``look/``, which shows an operation and can forget it."""

    list_title = "Operations"
    list_display = ("operation", "task", "by", time_column("at"), "outcome")
    search_fields = ("operation__startswith",)
    search_help_text = "An operation, or the beginning of one."
    ordering = ("-id",)
    sortable_by = ()
    actions = None
    change_list_template = "admin/tasks_demo_records/operation/list.html"

    def has_forget_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("tasks_demo_records.forget_operation")

    def get_urls(self) -> list[URLPattern]:
        look = path("look/", self.admin_site.admin_view(self.look), name="tasks_demo_records_forgottenoperation_look")
        return [look, *super().get_urls()]

    def look(self, request: HttpRequest) -> HttpResponse:
        """Show what is stored about the operation ``key``. A POST with a reason forgets the operation."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        asked = request.POST if request.method == "POST" else request.GET
        key, task = asked.get("key", ""), asked.get("task", "").strip()
        found: OperationRecords | None = None
        error = ""
        if key:
            try:
                found = find_records(key, task)
            except (InvalidOperationKey, UnknownTask) as wrong:
                error = str(wrong)
        why = asked.get("why", "").strip().replace("\0", "")
        if request.method == "POST":
            if not self.has_forget_permission(request):
                raise PermissionDenied
            if found is not None and request.POST.get("mark") != found.mark:
                messages.warning(request, "It has changed since it was shown, and nothing was removed. Look again.")
            elif found is not None and why and not found.troubles:
                return self._forget(request, found, task, why)
        removable = [trace for trace in found.traces if trace.removable] if found else []
        context = {
            **self.page_context(request, "Look at an operation"),
            "key": key,
            "task": task,
            "found": found,
            "error": error,
            "held": [trace.held for trace in removable if trace.held],
            "forgettable": bool(removable) and not (found and found.troubles) and self.has_forget_permission(request),
            "no_reason": request.method == "POST" and not why,
            "forgotten": list(self.get_queryset(request).filter(operation=key)[:20]) if found else [],
        }
        return TemplateResponse(request, "admin/tasks_demo_records/operation/look.html", context)

    def _forget(self, request: HttpRequest, found: OperationRecords, task: str, why: str) -> HttpResponse:
        try:
            removed = forget(
                found,
                by=request.user.get_username(),
                why=why,
                task=task,
                even_if_held="even_if_held" in request.POST,
            )
        except (OperationHeld, EnvironmentNotReady) as error:
            messages.error(request, str(error))
        else:
            if removed:
                entry = self.get_queryset(request).filter(operation=found.operation).first()
                if entry is not None:
                    self.log_addition(request, entry, f"Forgot {found.operation}: {why}"[:2000])
                names = ", ".join(f"{trace.kind} ({trace.place})" for trace in removed)
                messages.success(request, f"Forgotten: {names}. The operation can be done again.")
            else:
                messages.warning(
                    request, "Nothing was removed: it has changed since it was shown, or nothing was there."
                )
        query: dict[str, Any] = {"key": found.operation, **({"task": task} if task else {})}
        look = reverse("admin:tasks_demo_records_forgottenoperation_look", current_app=self.admin_site.name)
        return HttpResponseRedirect(f"{look}?{urlencode(query)}")
