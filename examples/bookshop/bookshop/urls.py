"""The admin, with the ledger and the patterns' records in it."""

from django.contrib import admin
from django.urls import path

urlpatterns = [path("admin/", admin.site.urls)]
