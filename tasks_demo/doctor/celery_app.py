"""Chooses the Celery app to judge: the named one, else the project's own (imported or not), else Celery's default app."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.app.utils import find_app

from tasks_demo.checks import applications
from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.doctor.findings import Finding, ok, reason, unusable, warn

PART, WHAT = "Celery app", "application"


def application(named: str = "") -> tuple[Any, Finding]:
    """Return the app to judge and the finding about it. ``named``: as for ``celery -A``.

    Raises EnvironmentNotReady if there is no app of that name.
    """
    if named:
        app = _named(named)
        app.set_current()
        return app, ok(PART, WHAT, f"{named}: {app.main}{_beside(app)}")
    app, packages = applications.current(), applications.packages()
    if not applications.is_default_app(app):
        return app, ok(PART, WHAT, f"{app.main or 'without a name'}{_beside(app)}")
    if found := applications.not_imported():
        app, name = found
        app.set_current()
        seen = (
            f"{app.main}, found in {name}, but commands and web processes of this project do not import it: `delay()` there "
            "publishes with Celery's default settings, to amqp://localhost"
        )
        return app, warn(PART, WHAT, seen, applications.how_to_import(name))
    where = f"looked in {', '.join(packages)}" if packages else "DJANGO_SETTINGS_MODULE names no package to look in"
    seen = f"only Celery's default app was found ({where}): your own app, its broker and its tasks were not judged"
    fix = (
        "Import your app in the package of your settings (`from .celery import app as celery_app` in its __init__.py), or "
        "write `manage.py doctor --app package.module:app`."
    )
    return app, unusable(PART, WHAT, seen, fix)


def _beside(app: Any) -> str:
    names = [name for _, name in applications.others(app)]
    return f"; not examined: {', '.join(names)} (--app)" if names else ""


def _named(name: str) -> Celery:
    try:
        found = find_app(name)
    except Exception as error:
        raise EnvironmentNotReady(
            f"--app {name}: {reason(error)}. Nothing was examined. Write it as for `celery -A`: a module, or module:attribute."
        ) from error
    if not isinstance(found, Celery):
        raise EnvironmentNotReady(
            f"--app {name}: it is a {type(found).__name__}, not a Celery app. Nothing was examined. Write module:attribute."
        )
    return found
