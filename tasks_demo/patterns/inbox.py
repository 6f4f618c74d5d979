"""inbox: effectively-once, for effects in one's own database.

    received ─▶ BEGIN ─ insert entry ─┬─ inserted ──▶ started ─▶ effect ─▶ store result ─▶ COMMIT ─▶ completed ─▶ acked
                                      ├─ there ─────▶ the stored result is returned, then acked       (suppressed)
                                      ├─ mismatch ──▶ OperationMismatch: other arguments, same key
                                      └─ in progress ▶ waits for the other's COMMIT or ROLLBACK, then one of the above

Killed anywhere before COMMIT: neither entry nor effect. After it: both, and the redelivered copy is suppressed. If the answer to
COMMIT is lost, the message is requeued, and its copy finds out which of the two it was.

Does **not** guarantee:

- That the body runs only once: a worker killed before the commit leaves nothing, and the body runs again.
- Anything about what the body does outside this one database: a mail sent before the kill is sent twice. Other aliases of Django
  are refused while it runs; connections that the body opens by itself, and threads, are not seen.
- Anything once commits can vanish: a server that loses committed transactions loses entries and effects together, and the job is
  not run again.
- On Redis, that every message comes back: see the fetch window in ``late``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any, NoReturn

from django.db import DatabaseError, Error, OperationalError, connections, router, transaction
from django.utils import timezone

from tasks_demo.core.exceptions import (
    ContradictoryDeclaration,
    OtherDatabaseUsed,
    RecordsUnavailable,
    TransactionBroken,
)
from tasks_demo.core.lifecycle import Point, Subject, described, reached
from tasks_demo.patterns import operation_records, results, transactions
from tasks_demo.patterns.attempts import count_attempt
from tasks_demo.patterns.execution import Execution, execution
from tasks_demo.patterns.late import LateTask
from tasks_demo.patterns.requeue import defer
from tasks_demo.patterns.suppression import suppress
from tasks_demo.records.models import InboxEntry


class Inbox(LateTask):
    """Promise: 1 effect per operation key, if the effect is in this database and nowhere else."""

    abstract = True
    pattern = "inbox"

    def run_delivery(self, subject: Subject, args: Any, kwargs: Any) -> Any:
        """Run the body in one transaction with the entry; Celery acknowledges when that has been committed."""
        alias = self.using or router.db_for_write(InboxEntry)
        entry = operation_records.new_row(InboxEntry, subject, self.digest(args, kwargs), "completed_at")
        with execution(self) as body:
            transactions.outside_transactions(self, alias)
            with count_attempt(self, body):  # in separate commits before and after the transaction
                try:
                    done, result = self._in_one_transaction(body, alias, entry, args, kwargs)
                except (RecordsUnavailable, Error) as error:
                    if body.begun and not _database_failed(error):
                        raise
                    connections[alias].close()  # it may be broken, and Celery keeps it for a thousand tasks
                    defer(self, error)
            if done is not None:
                first = str(self.request.id) if done.task_id == entry.task_id else ""
                return suppress(self, results.from_text(done.result), first)
            reached(Point.COMPLETED)
            reached(Point.RETURNED)
            return result

    def replace(self, sig: Any) -> NoReturn:
        """Refused: it ends the body without a result of its own."""
        raise ContradictoryDeclaration(
            f"{self.name}: self.replace() contradicts the pattern inbox: "
            "what the body has written is rolled back, while the replacement is published. "
            "Publish the other job after the work, as a link or a chain."
        )

    def _in_one_transaction(
        self, body: Execution, alias: str, entry: InboxEntry, args: Any, kwargs: Any
    ) -> tuple[InboxEntry | None, Any]:
        """The entry that existed before, or None and the result of the body."""
        with transaction.atomic(using=alias, durable=True):
            # The first statement, so that SQLite takes its write lock before anything is read.
            done = operation_records.find_or_insert(entry, alias)
            if done is not None:
                return done, None
            reached(Point.STARTED)
            with only_database(alias), unbroken(self, alias):
                result = body.run(args, kwargs)
            try:
                _complete(entry, alias, results.as_text(self, result))
            except Error as error:
                raise RecordsUnavailable(
                    f"The database {alias!r} did not take the result of operation {entry.operation!r} ({described(error)}). "
                    "All is rolled back, the effect too; the message is requeued."
                ) from error
        return None, result


def _complete(entry: InboxEntry, alias: str, result: str | None) -> None:
    # Written out: Django takes longer to build this statement than SQLite to run it.
    connection = connections[alias]
    moment = connection.ops.adapt_datetimefield_value(timezone.now())
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE tasks_demo_records_inboxentry SET result = %s, completed_at = %s WHERE operation = %s",
            [result, moment, entry.operation],
        )


@contextmanager
def only_database(alias: str) -> Iterator[None]:
    """Refuse every statement on another alias, in this thread."""

    def refuse(execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> NoReturn:
        raise OtherDatabaseUsed(
            f"The body of an inbox task used the database {context['connection'].alias!r}, but its transaction is on {alias!r}: "
            "the two would not be committed together. Nothing was done and all is rolled back. Keep the effect in "
            f"{alias!r}, pass what must be read as an argument, or use the pattern dedup_lock."
        )

    with ExitStack() as stack:
        for connection in connections.all():
            if connection.alias != alias:
                stack.enter_context(connection.execute_wrapper(refuse))
        yield


@contextmanager
def unbroken(task: Any, alias: str) -> Iterator[None]:
    """Raise TransactionBroken if the body has ended or broken the transaction that it ran in.

    A savepoint lives exactly as long as its transaction, however that ends.
    """
    connection = connections[alias]
    savepoint = connection.savepoint()
    yield
    why = "it was marked for rollback or its connection was closed" if connection.needs_rollback else ""
    if not why:
        try:
            connection.savepoint_commit(str(savepoint))
        except DatabaseError as error:
            if _database_failed(error):
                raise
            why = str(error).partition("\n")[0]
    if why:
        raise TransactionBroken(
            f"{task.name}: the body returned, but the transaction on {alias!r} is not the one it was given ({why}). What is "
            "not committed is rolled back; what the body committed by hand stays, without a result. Leave COMMIT, ROLLBACK and "
            "set_rollback() to the pattern: raise an error to undo, and use atomic() around what may fail."
        )


def _database_failed(error: Exception) -> bool:
    """Whether the database failed (gone, locked, deadlock, serialisation) and not the statement: then a retry can help."""
    if not isinstance(error, OperationalError):
        return isinstance(error, RecordsUnavailable)
    state = getattr(error.__cause__, "sqlstate", None)
    if state is not None:
        # Connection, rollback, resources, shutdown, system; lock not available. Not 57014, a statement timeout: it would time
        # out again.
        return state[:2] in {"08", "40", "53", "58"} or state[:3] == "57P" or state == "55P03"
    # SQLite reports a missing table as operational, too. A lost connection has neither code.
    return getattr(error.__cause__, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR


def prune(before: datetime, using: str | None = None) -> int:
    """Delete the entries completed before this moment, 1000 in each commit; return the number deleted.

    A copy that arrives later has a second effect. ``before`` must be older than any copy can be: by
    TASKS_DEMO_RETENTION_SECONDS, which must exceed every redelivery horizon (visibility timeout, countdown, outage).
    """
    return operation_records.prune(InboxEntry, "completed_at", before, using)
