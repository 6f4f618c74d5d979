"""URLs of the admin site. The bank's own process serves the bank's URLs (``tasks_demo.demo.bank.views``)."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.generic import RedirectView

from tasks_demo.ledger.models import Tally


def task_ids(request: HttpRequest) -> HttpResponse:
    """Show the list of task IDs in place of the admin's index of the application."""
    return admin.site.get_model_admin(Tally).changelist_view(request)


urlpatterns = [
    path("", RedirectView.as_view(url="/admin/tasks_demo/")),
    path("admin/tasks_demo/", admin.site.admin_view(task_ids)),
    path("admin/", admin.site.urls),
]
