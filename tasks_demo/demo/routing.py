"""Sends the tables of some apps to one more database, in this process only: the project's own routers stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections, router
from django.db.models import Model


class Home:
    """A router: the tables of the apps with these ``labels`` are in ``alias``, and nothing else is."""

    def __init__(self, alias: str, labels: Collection[str]) -> None:
        self.alias = alias
        self.labels = frozenset(labels)

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        return self.alias if model._meta.app_label in self.labels else None

    db_for_write = db_for_read

    def allow_relation(self, first: Model, second: Model, **hints: Any) -> bool | None:
        here = [one._meta.app_label in self.labels for one in (first, second)]
        return all(here) if any(here) else None

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        here = [db == self.alias, app_label in self.labels]
        return all(here) if any(here) else None


def add_database(alias: str, options: dict[str, Any], labels: Collection[str]) -> Callable[[], None]:
    """Add a database (in the form of DATABASES) and send these apps to it, whatever the project's routers say.

    Returns what undoes it. Not guaranteed: anything about other processes, which must do the same.
    """
    # Django fills in the defaults only for a whole set of databases, which must have this alias.
    connections.settings[alias] = connections.configure_settings({DEFAULT_DB_ALIAS: options})[DEFAULT_DB_ALIAS]
    home = Home(alias, labels)
    router.routers.insert(0, home)

    def undo() -> None:
        router.routers.remove(home)
        connections[alias].close()
        del connections[alias]
        del connections.settings[alias]

    return undo
