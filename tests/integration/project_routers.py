"""Database routers, task routers and books of projects other than this one."""

from __future__ import annotations

from typing import Any

from tasks_demo.ledger.books import ModelBooks


class ReadsFromAReplica:
    """Writes to ``default`` and reads from ``replica``, which lags: here it never receives anything."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "replica"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "default"

    def allow_relation(self, *_: Any, **hints: Any) -> bool:
        return True


class SomeModelsElsewhere:
    """Moves the models that grow to ``ops`` and keeps the other models of their apps."""

    moved = frozenset({"tally", "parked", "inboxentry"})

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "ops" if model._meta.model_name in self.moved else "default"

    db_for_write = db_for_read


def takes_no_copy(name: str, args: Any, kwargs: Any, options: Any, **_: Any) -> None:
    """A ``task_routes`` function that makes every deferred copy fail to publish."""
    if "tasks_demo_deferrals" in (options.get("headers") or {}):
        raise OSError("no room for a copy")


class Payments(ModelBooks):
    """Books over the bookshop's payments."""

    model, operation = "orders.Payment", "order_id"


class RecordsElsewhere:
    """Sends the patterns' records to the database ``records``."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "records" if model._meta.app_label == "tasks_demo_records" else None

    db_for_write = db_for_read


class FailsForAWhile:
    """Raises for as long as ``failing`` is set."""

    failing = True

    def db_for_read(self, model: Any, **hints: Any) -> None:
        if self.failing:
            raise LookupError("no shard for this model")

    db_for_write = db_for_read
