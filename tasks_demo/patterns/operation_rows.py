"""One durable row per operation, inserted by whoever comes first: what ``claim_first`` and ``inbox`` have in common."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

from django.db import Error, connections
from django.db.models import Model

from tasks_demo.core.databases import unsupported
from tasks_demo.core.exceptions import OperationMismatch, RecordsUnavailable, TransactionOpen, UnsupportedDatabase
from tasks_demo.records.models import Claim, InboxEntry

Row = TypeVar("Row", Claim, InboxEntry)
#: Rows deleted in one commit.
BATCH = 1000


def earlier(row: Row, alias: str) -> Row | None:
    """Insert the row; None: it is ours. Otherwise the row of this operation that was there before.

    Where another transaction is just inserting the same operation this waits for its end: on PostgreSQL for that row, on
    SQLite for the file. Raises OperationMismatch, and RecordsUnavailable when it is not known what the database did.
    Behind ``outside_transactions``, which knows the databases that this SQL is not for.
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
            f"{str(error).partition(chr(10))[0]}. The body was not run; the message goes back. "
            "Is the database running, writable and migrated (`manage.py migrate`)?"
        ) from error
    return None


def _inserted(row: Claim | InboxEntry, alias: str) -> bool:
    # Not save(): a conflict is no error here, and an error would break PostgreSQL's transaction.
    connection, fields = connections[alias], row._meta.concrete_fields
    quote = connection.ops.quote_name
    columns = ", ".join(quote(str(field.column)) for field in fields)
    values = [field.get_db_prep_save(getattr(row, field.attname), connection) for field in fields]
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {quote(row._meta.db_table)} ({columns}) "  # noqa: S608  (names of the model, not of a caller)
            f"VALUES ({', '.join(['%s'] * len(values))}) ON CONFLICT DO NOTHING",
            values,
        )
        return bool(cursor.rowcount)


def transaction_open(alias: str) -> bool:
    """Whether a transaction is open on this alias. The one that Django's TestCase keeps around each test does not count:
    to the code under test it stands for the database itself, as it does for ``atomic(durable=True)``."""
    connection = connections[alias]
    # Without autocommit a transaction is always open, seen or not.
    if not connection.settings_dict["AUTOCOMMIT"]:
        return True
    if connection.in_atomic_block:
        blocks: list[Any] = connection.atomic_blocks
        return any(not block._from_testcase for block in blocks)
    return connection.connection is not None and not connection.autocommit


def outside_transactions(task: Any, alias: str) -> None:
    """Raise TransactionOpen if a transaction is open on this alias: its rollback would take the row with it.

    Raises UnsupportedDatabase where no row can be kept at all.
    """
    if why := unsupported(alias):
        raise UnsupportedDatabase(
            f"The records of the pattern {task.pattern} cannot be kept: {why}. The body was not run. Send the app "
            "tasks_demo_records to another database with a router or using=..., or use a pattern without records (W018)."
        )
    if transaction_open(alias):
        raise TransactionOpen(
            f"{task.name}: a transaction is open on the database {alias!r}, or its autocommit is off. A rollback would erase "
            f"the row that the pattern {task.pattern} relies on. Nothing was run. Call the task outside atomic()."
        )


def prune(model: type[Model], moment: str, before: datetime, alias: str) -> int:
    """Delete the rows whose ``moment`` is before that, BATCH a commit; returns how many it were."""
    rows: Any = model._base_manager.using(alias)
    removed = 0
    while keys := list(rows.filter(**{f"{moment}__lt": before}).order_by(moment).values_list("pk", flat=True)[:BATCH]):
        # Asked again: a row that was released and claimed anew in between is a new one.
        removed += rows.filter(pk__in=keys, **{f"{moment}__lt": before}).delete()[0]
    return removed
