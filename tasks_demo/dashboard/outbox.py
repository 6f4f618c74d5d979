"""The outbox in the Django admin, read-only: only the application, the relay and the workers write it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from tasks_demo.dashboard import screens
from tasks_demo.records.models import OutboxMessage

if TYPE_CHECKING:
    _Admin = admin.ModelAdmin[OutboxMessage]
else:
    _Admin = admin.ModelAdmin


class StateFilter(admin.SimpleListFilter):
    """Filters by the state of a message. An index serves each choice."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "not ended"), ("failing", "could not be published"), ("ended", "ended")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[OutboxMessage]) -> QuerySet[OutboxMessage]:
        match self.value():
            case "open":
                return queryset.filter(finished_at=None)
            case "failing":
                return queryset.filter(finished_at=None, failures__gt=0)
            case "ended":
                return queryset.filter(finished_at__isnull=False)
        return queryset


screens.register_list("Outbox", OutboxMessage, place=65)


@admin.register(OutboxMessage)
class OutboxMessageAdmin(_Admin):
    """Read-only list and page."""

    list_display = ("task_id", "task", "state", "publications", "failures", "created_at", "due_at")
    list_filter = (StateFilter,)
    search_fields = ("task_id__startswith",)
    search_help_text = "A task ID, or the beginning of one."
    ordering = ("-id",)
    sortable_by = ()
    list_per_page = 50
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    actions = None

    class Media:
        css = {"all": ("tasks_demo/dashboard.css", "tasks_demo/quarantine.css")}

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        # The columns need the width, as on the ledger's list.
        return super().changelist_view(request, {"is_nav_sidebar_enabled": False, **(extra_context or {})})

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: OutboxMessage | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: OutboxMessage | None = None) -> bool:
        return False

    @admin.display(description="state")
    def state(self, message: OutboxMessage) -> str:
        if message.finished_at:
            return "ended"
        if message.started_at and (not message.published_at or message.started_at >= message.published_at):
            return "begun"
        return "published" if message.published_at else "waits for the relay"
