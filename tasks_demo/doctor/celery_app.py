"""Which Celery application is judged: the project's own, wherever it hides, or only Celery's default."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from celery import Celery, _state, current_app
from celery.app.utils import find_app
from django.conf import settings as django_settings

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.doctor.rows import Row, State, reason, silent

PART, WHAT = "Celery app", "application"
#: Modules of a package in which projects keep their application, after Celery's own guess (``package.celery``).
PLACES = ("celery_app", "celeryapp", "celery_config", "worker")


def application(named: str = "") -> tuple[Any, Row]:
    """The app to judge, and what is to be said of it. ``named``: as for ``celery -A``.

    Raises EnvironmentNotReady for a name that leads to no app.
    """
    if named:
        app = _named(named)
        app.set_current()
        return app, Row(PART, WHAT, State.OK, f"{named}: {app.main}")
    proxy: Any = current_app
    app = proxy._get_current_object()  # in another thread the proxy may mean another app
    if app.main != "default" or app is not getattr(_state, "default_app", None):
        return app, Row(PART, WHAT, State.OK, str(app.main or "without a name"))
    packages = _packages()
    for package in packages:
        for place in (package, *(f"{package}.{name}" for name in PLACES)):
            try:
                found = find_app(place)
            except Exception:  # noqa: BLE001, S112  (somebody's module; most of these places do not exist)
                continue
            if isinstance(found, Celery) and found is not app:
                found.set_current()
                seen = (
                    f"{found.main}, found in {place}, but nothing imports it here: `delay()` in this project's commands and web "
                    "processes publishes with Celery's default settings, to amqp://localhost"
                )
                fix = f"Write `from {place} import app as celery_app` (its name there) into {packages[-1]}/__init__.py."
                return found, Row(PART, WHAT, State.WARN, seen, fix)
    where = f"looked in {', '.join(packages)}" if packages else "DJANGO_SETTINGS_MODULE names no package to look in"
    seen = f"only Celery's default app is there ({where}): your own app, its broker and its tasks were not judged"
    fix = (
        "Import your app in the package of your settings (`from .celery import app as celery_app` in its __init__.py), or "
        "write `manage.py doctor --app package.module:app`."
    )
    return app, silent(PART, WHAT, seen, fix)


def _named(name: str) -> Celery:
    try:
        found = find_app(name)
    except Exception as error:
        raise EnvironmentNotReady(
            f"--app {name}: {reason(error)}. Nothing was examined. Write it as for `celery -A`: a module, or module:attribute."
        ) from error
    if not isinstance(found, Celery):
        raise EnvironmentNotReady(
            f"--app {name}: it is a {type(found).__name__} and no Celery app. Nothing was examined. Write module:attribute."
        )
    return found


def _packages() -> list[str]:
    """The packages around the settings, the innermost first; then those of the URLs and of WSGI."""

    def around(module: str) -> Iterator[str]:
        while "." in module:
            module = module.rpartition(".")[0]
            yield module

    named = (os.environ.get("DJANGO_SETTINGS_MODULE", ""), getattr(django_settings, "ROOT_URLCONF", ""))
    return list(dict.fromkeys(package for module in named for package in around(module)))
