"""Which Celery applications a project has: the current one, one that nothing imports here, and others beside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from celery import Celery, _state, current_app
from celery.app.utils import find_app
from django.conf import settings as django_settings

#: Modules of a package in which projects keep their application, after Celery's own guess (``package.celery``).
PLACES = ("celery_app", "celeryapp", "celery_config", "worker")


def current() -> Any:
    """The app itself: in another thread the proxy may mean another one."""
    proxy: Any = current_app
    return proxy._get_current_object()


def is_celery_s_own(app: Any) -> bool:
    """Whether this is the app that Celery makes where a project has imported none of its own."""
    return app.main == "default" and app is getattr(_state, "default_app", None)


def hidden() -> tuple[Any, str] | None:
    """An app in the packages of the settings and URLs, and its name; None: none. Imports the places where one may be."""
    for package in packages():
        for place in (package, *(f"{package}.{name}" for name in PLACES)):
            try:
                found = find_app(place)
            except Exception:  # noqa: BLE001, S112  (somebody's module; most of these places do not exist)
                continue
            if isinstance(found, Celery) and not is_celery_s_own(found):
                return found, next(_named([found]), (found, f"{place}:app"))[1]
    return None


def others(app: Any) -> Iterator[tuple[Any, str]]:
    """The project's apps beside this one, and their names. Apps are made for a moment, too: a project's is in a module."""
    active: Any = _state  # its stubs do not know what follows
    return _named([other for other in active._get_active_apps() if other is not app and not is_celery_s_own(other)])


def _named(apps: Iterable[Any]) -> Iterator[tuple[Any, str]]:
    """Those that are attributes of a module, each with one name as for ``celery -A``."""
    unnamed = {id(app) for app in apps}
    for module in sorted(sys.modules) if unnamed else ():
        if not module.startswith("celery."):  # it keeps the current one
            for name, value in list(getattr(sys.modules[module], "__dict__", {}).items()):
                if id(value) in unnamed:  # not isinstance(): it would resolve every lazy object
                    unnamed.remove(id(value))
                    yield value, f"{module}:{name}"


def how_to_import(name: str) -> str:
    """What to write so that every process of the project has the app of this name."""
    module, _, attribute = name.partition(":")
    where = (packages() or ["the settings' package"])[-1].replace(".", "/")
    return f"Write `from {module} import {attribute} as celery_app` into {where}/__init__.py."


def packages() -> list[str]:
    """The packages around the settings, the innermost first; then those of the URLs."""

    def around(module: str) -> Iterator[str]:
        while "." in module:
            module = module.rpartition(".")[0]
            yield module

    named = (os.environ.get("DJANGO_SETTINGS_MODULE", ""), getattr(django_settings, "ROOT_URLCONF", ""))
    return list(dict.fromkeys(package for module in named for package in around(module)))
