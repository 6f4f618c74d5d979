"""Store one durable row per operation, inserted by its first delivery. ``claim_first`` and ``inbox`` share this."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any, TypeVar

from django.db import Error, connections, router
from django.db.models import Model
from django.utils import timezone

from tasks_demo.core.databases import execute
from tasks_demo.core.exceptions import OperationMismatch, RecordsUnavailable
from tasks_demo.core.lifecycle import Subject
from tasks_demo.records.fields import fit_column
from tasks_demo.records.models import Claim, InboxEntry

Row = TypeVar("Row", Claim, InboxEntry)
#: Rows deleted in one commit.
BATCH = 1000


def new_row(model: type[Row], subject: Subject, digest: str, moment: str) -> Row:
    """Build a row for this delivery, without inserting it; ``moment`` is the column that is set to now."""
    values = {"operation": fit_column(subject.operation), "task_id": fit_column(subject.task_id), "digest": digest}
    return model(**values, **{moment: timezone.now()})


def find_or_insert(row: Row, alias: str) -> Row | None:
    """Insert the row and return None, or return the operation's existing row.

    If another transaction is inserting the same operation, this waits for it to end: on PostgreSQL for that row, on SQLite for
    the whole file. Raises OperationMismatch, and RecordsUnavailable when it is unknown what the database did. Call
    ``outside_transactions`` first: it refuses databases that do not support this SQL.
    """
    try:
        while not _inserted(row, alias):
            found = type(row)._base_manager.using(alias).filter(pk=row.pk).first()
            if found is None:
                continue  # deleted since; try again
            if found.digest != row.digest:
                raise OperationMismatch(
                    f"Operation {row.operation!r} was already used by another task or with other arguments. Nothing was run. "
                    "Use a new operation key for new work."
                )
            return found
    except Error as error:
        raise RecordsUnavailable(
            f"The database {alias!r} did not accept the row of operation {row.operation!r}: "
            f"{str(error).partition(chr(10))[0]}. The body was not run; the message is requeued. {_advice(error)}"
        ) from error
    return None


def _advice(error: Error) -> str:
    # Rolled back for the sake of another transaction: a deadlock, or, above READ COMMITTED, a duplicate that could not wait.
    if str(getattr(error.__cause__, "sqlstate", None)).startswith("40"):
        return "Another transaction came first: nothing need be done."
    return "Is the database running, writable and migrated (`manage.py migrate`)?"


def _inserted(row: Claim | InboxEntry, alias: str) -> bool:
    # Not save(): a conflict is expected here, and an error would abort PostgreSQL's transaction.
    connection = connections[alias]
    adapted = connection.ops.adapt_datetimefield_value
    values = [getattr(row, field.attname) for field in row._meta.concrete_fields]
    values = [adapted(value) if isinstance(value, datetime) else value for value in values]
    changed, rows = execute(alias, _insert(type(row), connection.vendor), values)
    if connection.vendor == "postgresql" and rows:
        row.transaction_id = rows[0][0]
    return bool(changed)


@cache
def _insert(model: type[Model], vendor: str) -> str:
    columns = [f'"{field.column}"' for field in model._meta.concrete_fields]
    returning = " RETURNING pg_current_xact_id()::text" if vendor == "postgresql" else ""
    return (
        f'INSERT INTO "{model._meta.db_table}" ({", ".join(columns)}) '  # noqa: S608  (names from the model, not from a caller)
        f"VALUES ({', '.join(['%s'] * len(columns))}) ON CONFLICT DO NOTHING{returning}"
    )


def prune(model: type[Model], moment: str, before: datetime, using: str | None, most: int | None = None) -> int:
    """Delete the rows whose column ``moment`` is earlier than ``before``, BATCH per commit, at most ``most``; return the number
    deleted.
    """
    rows: Any = model._base_manager.using(using or router.db_for_write(model))
    old = {f"{moment}__lt": before}
    removed = 0
    while True:
        size = BATCH if most is None else min(BATCH, most - removed)
        keys = list(rows.filter(**old).order_by(moment).values_list("pk", flat=True)[:size])
        if not keys:
            return removed
        # The condition is repeated so that a row that was claimed anew meanwhile is kept.
        removed += rows.filter(pk__in=keys, **old).delete()[0]
