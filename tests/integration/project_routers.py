"""Routers of databases and tasks, and books, of projects that are not ours."""

from __future__ import annotations

from typing import Any

from tasks_demo.ledger.books import ModelBooks


class ReadsFromAReplica:
    """Everything is written to ``default`` and read from ``replica``, which lags: here it is never told anything."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "replica"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "default"

    def allow_relation(self, *_: Any, **hints: Any) -> bool:
        return True


class SomeModelsElsewhere:
    """As a project has it that moves the tables that grow: these to ``ops``, and the rest of their apps stays."""

    moved = frozenset({"tally", "parked", "inboxentry"})

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "ops" if model._meta.model_name in self.moved else "default"

    db_for_write = db_for_read


def takes_no_copy(name: str, args: Any, kwargs: Any, options: Any, **_: Any) -> None:
    """Of ``task_routes``: what was deferred cannot be published."""
    if "tasks_demo_deferrals" in (options.get("headers") or {}):
        raise OSError("no room for a copy")


class Payments(ModelBooks):
    """The bookshop's payments."""

    model, operation = "orders.Payment", "order_id"


class RecordsElsewhere:
    """The patterns' records in the database ``records``."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "records" if model._meta.app_label == "tasks_demo_records" else None

    db_for_write = db_for_read
