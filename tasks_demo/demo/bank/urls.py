"""URLs of the bank, served by its own process (``bank.server``)."""

from __future__ import annotations

from django.urls import path

from tasks_demo.demo.bank import views

urlpatterns = [
    path("debits", views.by_method(GET=views.list_debits, POST=views.make_debit)),
    path("accounts/<path:name>", views.by_method(GET=views.show_account)),
    path("health", views.by_method(GET=views.health)),
    path("faults", views.by_method(GET=views.show_faults, PUT=views.set_faults)),
    path(
        "faults/<str:name>",
        views.by_method(GET=views.show_fault, PUT=views.name_fault, DELETE=views.remove_fault),
    ),
]
handler400 = views.bad_request
handler404 = views.not_found
handler500 = views.server_error
