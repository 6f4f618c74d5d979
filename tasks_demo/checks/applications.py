"""Finds the Celery apps of a project: the current one, one that nothing has imported yet, and any others."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from celery import Celery, _state, current_app
from celery.app.utils import find_app
from django.conf import settings as django_settings

#: Modules of a package to search for an app. Celery's ``find_app`` itself tries ``package.celery``.
PLACES = ("celery_app", "celeryapp", "celery_config", "worker")


def current() -> Any:
    """Return the current app, not its proxy, which may resolve to another app in another thread."""
    proxy: Any = current_app
    return proxy._get_current_object()


def is_default_app(app: Any) -> bool:
    """Return whether this is the default app, which Celery creates if the project has imported no app of its own."""
    return app.main == "default" and app is getattr(_state, "default_app", None)


def not_imported() -> tuple[Any, str] | None:
    """Import likely modules in the packages of the settings and URLs. Returns the first app found there and its name, or None."""
    for package in packages():
        for place in (package, *(f"{package}.{name}" for name in PLACES)):
            try:
                found = find_app(place)
            except Exception:  # noqa: BLE001, S112  (a module can raise anything; most of these do not exist)
                continue
            if isinstance(found, Celery) and not is_default_app(found):
                return found, next(_named([found]), (found, f"{place}:app"))[1]
    return None


def others(app: Any) -> Iterator[tuple[Any, str]]:
    """Yield the project's other apps and their names. Leaves out temporary apps, which are in no module."""
    active: Any = _state  # the stubs lack _get_active_apps
    return _named([other for other in active._get_active_apps() if other is not app and not is_default_app(other)])


def _named(apps: Iterable[Any]) -> Iterator[tuple[Any, str]]:
    """Yield each app that is an attribute of a loaded module, and its name in the form that ``celery -A`` accepts."""
    unnamed = {id(app) for app in apps}
    for module in sorted(sys.modules) if unnamed else ():
        if not module.startswith("celery."):  # Celery's modules refer to the current app
            for name, value in list(getattr(sys.modules[module], "__dict__", {}).items()):
                if id(value) in unnamed:  # isinstance() would resolve every lazy object
                    unnamed.remove(id(value))
                    yield value, f"{module}:{name}"


def how_to_import(name: str) -> str:
    """Return the hint how to make every process of the project import the app of this name."""
    module, _, attribute = name.partition(":")
    where = (packages() or ["the settings' package"])[-1].replace(".", "/")
    return f"Add `from {module} import {attribute} as celery_app` to {where}/__init__.py."


def packages() -> list[str]:
    """Return the packages that contain the settings module, innermost first, then those of ROOT_URLCONF."""

    def around(module: str) -> Iterator[str]:
        while "." in module:
            module = module.rpartition(".")[0]
            yield module

    named = (os.environ.get("DJANGO_SETTINGS_MODULE", ""), getattr(django_settings, "ROOT_URLCONF", ""))
    return list(dict.fromkeys(package for module in named for package in around(module)))
