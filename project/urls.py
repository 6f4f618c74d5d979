"""URLs of the admin site. The bank has its own (``tasks_demo.demo.bank.views``), served by its own process."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.generic import RedirectView

from tasks_demo.ledger.models import Tally


def task_ids(request: HttpRequest) -> HttpResponse:
    """The list of task IDs, where the admin would show the index of the application."""
    return admin.site.get_model_admin(Tally).changelist_view(request)


urlpatterns = [
    path("", RedirectView.as_view(url="/admin/tasks_demo/")),
    path("admin/tasks_demo/", admin.site.admin_view(task_ids)),
    path("admin/", admin.site.urls),
]
