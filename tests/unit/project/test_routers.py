"""Where the tables of each application live."""

from __future__ import annotations

from django.apps import apps
from django.conf import settings
from django.db import router

from project.routers import OneHomePerApp


def test_routers_each_application_has_one_home_and_is_found_nowhere_else() -> None:
    routes = OneHomePerApp()
    for model in apps.get_models():
        label = model._meta.app_label
        home = settings.DATABASE_OF_APP.get(label, "default")
        assert routes.db_for_read(model) == routes.db_for_write(model) == home
        assert [alias for alias in settings.DATABASES if routes.allow_migrate(alias, label)] == [home]


def test_banks_books_are_alone() -> None:
    here = {model._meta.app_label for model in apps.get_models() if router.db_for_write(model) == "bank"}
    assert here == {"bank"}
