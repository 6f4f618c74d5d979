"""One durable row per operation, inserted by its first delivery: what ``claim_first`` and ``inbox`` share."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

from django.db import Error, connections, router
from django.db.models import Model
from django.utils import timezone

from tasks_demo.core.exceptions import OperationMismatch, RecordsUnavailable
from tasks_demo.core.lifecycle import Subject
from tasks_demo.records.fields import fit_column
from tasks_demo.records.models import Claim, InboxEntry

Row = TypeVar("Row", Claim, InboxEntry)
#: Rows deleted in one commit.
BATCH = 1000


def new_row(model: type[Row], subject: Subject, digest: str, moment: str) -> Row:
    """A row for this delivery, not inserted yet; ``moment`` is the column that is set to now."""
    values = {"operation": fit_column(subject.operation), "task_id": fit_column(subject.task_id), "digest": digest}
    return model(**values, **{moment: timezone.now()})


def find_or_insert(row: Row, alias: str) -> Row | None:
    """Insert the row and return None, or return the row of this operation that exists already.

    While another transaction is inserting the same operation this waits for it to end: on PostgreSQL for that row, on
    SQLite for the whole file. Raises OperationMismatch, and RecordsUnavailable when it is not known what the database did.
    Call ``outside_transactions`` first: it refuses the databases that this SQL does not support.
    """
    try:
        while not _inserted(row, alias):
            found = type(row)._base_manager.using(alias).filter(pk=row.pk).first()
            if found is None:
                continue  # released or pruned since
            if found.digest != row.digest:
                raise OperationMismatch(
                    f"Operation {row.operation!r} was used before by another task or with other arguments. Nothing was run. "
                    "Use a new operation key for new work."
                )
            return found
    except Error as error:
        raise RecordsUnavailable(
            f"The database {alias!r} did not take the row of operation {row.operation!r}: "
            f"{str(error).partition(chr(10))[0]}. The body was not run; the message is requeued. "
            "Is the database running, writable and migrated (`manage.py migrate`)?"
        ) from error
    return None


def _inserted(row: Claim | InboxEntry, alias: str) -> bool:
    # Not save(): a conflict is expected here, and an error would abort PostgreSQL's transaction.
    connection, fields = connections[alias], row._meta.concrete_fields
    quote = connection.ops.quote_name
    columns = ", ".join(quote(str(field.column)) for field in fields)
    values = [field.get_db_prep_save(getattr(row, field.attname), connection) for field in fields]
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {quote(row._meta.db_table)} ({columns}) "  # noqa: S608  (names from the model, not from a caller)
            f"VALUES ({', '.join(['%s'] * len(values))}) ON CONFLICT DO NOTHING",
            values,
        )
        return bool(cursor.rowcount)


def prune(model: type[Model], moment: str, before: datetime, using: str | None) -> int:
    """Delete the rows whose ``moment`` is before that, BATCH in each commit; return the number deleted."""
    rows: Any = model._base_manager.using(using or router.db_for_write(model))
    removed = 0
    while keys := list(rows.filter(**{f"{moment}__lt": before}).order_by(moment).values_list("pk", flat=True)[:BATCH]):
        # The condition again: a row that was released and claimed anew in the meantime is a new one.
        removed += rows.filter(pk__in=keys, **{f"{moment}__lt": before}).delete()[0]
    return removed
