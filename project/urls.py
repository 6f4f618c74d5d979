"""URLs of the admin site. The bank's own process serves the bank's URLs (``tasks_demo.demo.bank.views``)."""

from __future__ import annotations

from django.contrib import admin
from django.templatetags.static import static
from django.urls import path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(url="/admin/tasks_demo/")),
    # Browsers request it on every page, including those of the stock admin.
    path("favicon.ico", RedirectView.as_view(url=static("tasks_demo/icon.svg"))),
    path("admin/", admin.site.urls),
]
