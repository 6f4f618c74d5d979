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
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NoReturn

from django.db import DatabaseError, Error, OperationalError, connections, router, transaction
from django.utils import timezone

from tasks_demo.core.databases import execute
from tasks_demo.core.exceptions import (
    ContradictoryDeclaration,
    OtherDatabaseUsed,
    RecordsUnavailable,
    TransactionBroken,
)
from tasks_demo.core.lifecycle import Point, Subject, described, reached
from tasks_demo.patterns import operation_records, results, transactions
from tasks_demo.patterns.attempts import TAKE_BACK, Counted, count_attempt
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
            with count_attempt(
                self, body
            ) as attempt:  # in a commit of its own, and taken back in the one of the effect
                try:
                    done, result = self._in_one_transaction(body, alias, entry, args, kwargs, attempt)
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
        self, body: Execution, alias: str, entry: InboxEntry, args: Any, kwargs: Any, attempt: Counted
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
                same = _complete(entry, alias, results.as_text(self, result), attempt)
            except Error as error:
                if _aborted(error):
                    raise _broken(self, alias, str(error).partition("\n")[0]) from error
                raise RecordsUnavailable(
                    f"The database {alias!r} did not take the result of operation {entry.operation!r} ({described(error)}). "
                    "All is rolled back, the effect too; the message is requeued."
                ) from error
            if not same:
                raise _broken(self, alias, "it was committed or rolled back by hand")
        return None, result


#: Stores the result and takes the attempt back, in one round trip. It changes nothing in another transaction than the entry's.
_COMPLETE_ON_POSTGRESQL = f"""
    WITH mine AS (SELECT operation FROM tasks_demo_records_inboxentry WHERE operation = %s AND pg_current_xact_id()::text = %s),
    taken_back AS ({TAKE_BACK} AND EXISTS (SELECT FROM mine) RETURNING 1)
    UPDATE tasks_demo_records_inboxentry SET result = %s, completed_at = %s WHERE operation IN (SELECT operation FROM mine)
    RETURNING EXISTS (SELECT FROM taken_back)
"""  # noqa: S608  (a constant)
_COMPLETE = "UPDATE tasks_demo_records_inboxentry SET result = %s, completed_at = %s WHERE operation = %s"


def _complete(entry: InboxEntry, alias: str, result: str | None, attempt: Counted) -> bool:
    """Store the result. Returns whether this is still the transaction of the entry.

    Written out, because Django takes longer to build these statements than the database to run them.
    """
    connection = connections[alias]
    moment = connection.ops.adapt_datetimefield_value(timezone.now())
    counted = (*attempt.key, attempt.line) if attempt.key is not None and attempt.alias == alias else None
    if connection.vendor == "postgresql":
        mine = [entry.operation, entry.transaction_id]
        parameters = [*mine, *(counted or ("", -1, "")), result, moment]
        _, found = execute(alias, _COMPLETE_ON_POSTGRESQL, parameters)
        attempt.is_taken_back = found == [(True,)]
        return bool(found)
    execute(alias, _COMPLETE, [result, moment, entry.operation])
    if counted is not None:
        attempt.is_taken_back = execute(alias, TAKE_BACK, counted)[0] > 0
    return True


@contextmanager
def only_database(alias: str) -> Iterator[None]:
    """Refuse every statement on another alias, in this thread."""

    def refuse(execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> NoReturn:
        raise OtherDatabaseUsed(
            f"The body of an inbox task used the database {context['connection'].alias!r}, but its transaction is on {alias!r}: "
            "the two would not be committed together. Nothing was done and all is rolled back. Keep the effect in "
            f"{alias!r}, pass what must be read as an argument, or use the pattern dedup_lock."
        )

    others = [connection for connection in connections.all() if connection.alias != alias]
    for connection in others:
        connection.execute_wrappers.append(refuse)
    try:
        yield
    finally:
        for connection in others:
            connection.execute_wrappers.remove(refuse)


@contextmanager
def unbroken(task: Any, alias: str) -> Iterator[None]:
    """Raise TransactionBroken if the body has ended or broken the transaction that it ran in.

    On SQLite a savepoint tells: it lives exactly as long as its transaction. On PostgreSQL, where it would cost two round trips,
    ``_complete`` compares the transaction's ID.
    """
    connection = connections[alias]
    with_savepoint = connection.vendor == "sqlite"
    if with_savepoint:
        execute(alias, "SAVEPOINT the_body", ())
    yield
    if connection.needs_rollback:
        raise _broken(task, alias, "it was marked for rollback or its connection was closed")
    if with_savepoint:
        try:
            execute(alias, "RELEASE SAVEPOINT the_body", ())
        except DatabaseError as error:
            if _database_failed(error):
                raise
            raise _broken(task, alias, str(error).partition("\n")[0]) from error


def _broken(task: Any, alias: str, why: str) -> TransactionBroken:
    return TransactionBroken(
        f"{task.name}: the body returned, but the transaction on {alias!r} is not the one it was given ({why}). What is "
        "not committed is rolled back; what the body committed by hand stays, without a result. Leave COMMIT, ROLLBACK and "
        "set_rollback() to the pattern: raise an error to undo, and use atomic() around what may fail."
    )


def _aborted(error: Exception) -> bool:
    """Whether PostgreSQL refuses further statements, because the body caught the error of an earlier one."""
    return getattr(error.__cause__, "sqlstate", None) == "25P02"


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
