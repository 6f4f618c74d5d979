"""The bases of the admin's tables: nobody adds, changes or deletes a row here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db import router
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from tasks_demo.dashboard.search import StorableLookups

if TYPE_CHECKING:
    _Admin = admin.ModelAdmin[Any]
else:
    _Admin = admin.ModelAdmin


class ReadOnlyAdmin(_Admin):
    """A list and pages to look at."""

    list_per_page = 50
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class RecordsAdmin(StorableLookups, ReadOnlyAdmin):
    """A table of the records. ``list_title``: the title of its list."""

    list_title = ""

    class Media:
        css = {"all": ("tasks_demo/dashboard.css", "tasks_demo/quarantine.css")}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        # Read from the primary: the list shown right after an act must show what it did.
        return super().get_queryset(request).using(router.db_for_write(self.model))

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        # The columns need the width, as on the ledger's list.
        context = {"title": self.list_title, "is_nav_sidebar_enabled": False, **(extra_context or {})}
        return super().changelist_view(request, context)

    def page_context(self, request: HttpRequest, title: str) -> dict[str, Any]:
        """Return what a page of our own in the frame of the admin needs."""
        return {
            **self.admin_site.each_context(request),
            "is_nav_sidebar_enabled": False,
            "opts": self.opts,
            "media": self.media,
            "title": title,
        }
