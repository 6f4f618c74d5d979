"""Detect open transactions: bodies that need records do not start in one, and publishing in one is reported or refused.

A job that is published inside a transaction may run before the commit, or after a rollback.

Does **not** detect a transaction that was opened with raw SQL. Does **not** refuse to publish tasks without a pattern when
``TASKS_DEMO_PUBLISH_IN_TRANSACTION = "error"``, because Celery ignores errors of signal handlers; an ERROR is logged for them.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from celery import signals
from django.db import connections

from tasks_demo.core.conf import settings
from tasks_demo.core.databases import unsupported
from tasks_demo.core.exceptions import InvalidSetting, PublishedInTransaction, TransactionOpen, UnsupportedDatabase
from tasks_demo.patterns.requeue import DEFERRALS, PARKED

logger = logging.getLogger(__name__)
#: Modules that may be on the stack between the publishing code and this module.
BETWEEN = ("celery.", "kombu.", "vine.", "tasks_demo.patterns.", "functools", "contextlib", "django.utils.functional")
#: Headers of copies that this package publishes: deferred deliveries, and messages from the relay or the quarantine.
OURS = (DEFERRALS, PARKED, "tasks_demo_outbox")
#: Maximum number of reported call sites to remember.
MOST = 10_000
_reported: set[tuple[str, int, str]] = set()


def transaction_open(alias: str) -> bool:
    """Return whether a transaction is open on this alias.

    The transaction that Django's TestCase opens around each test does not count, as with ``atomic(durable=True)``.
    """
    connection = connections[alias]
    # Without autocommit any statement opens a transaction.
    if not connection.settings_dict["AUTOCOMMIT"]:
        return True
    if connection.in_atomic_block:
        blocks: list[Any] = connection.atomic_blocks
        return any(not block._from_testcase for block in blocks)
    return connection.connection is not None and not connection.autocommit


def outside_transactions(task: Any, alias: str) -> None:
    """Raise TransactionOpen if a transaction is open on this alias, because its rollback would erase the pattern's row.

    Raises UnsupportedDatabase if the database cannot have the pattern's tables.
    """
    if why := unsupported(alias):
        raise UnsupportedDatabase(
            f"The records of the pattern {task.pattern} cannot be stored: {why}. The body was not run. Route the app "
            "tasks_demo_records to another database with a router or using=..., or use a pattern without records (W018)."
        )
    if transaction_open(alias):
        raise TransactionOpen(
            f"{task.name}: a transaction is open on the database {alias!r}, or its autocommit is off. A rollback would erase "
            f"the row that the pattern {task.pattern} relies on. Nothing was run. Call the task outside atomic()."
        )


def refuse_in_transaction(task: str) -> None:
    """Raise PublishedInTransaction if a transaction is open and the setting makes that an error."""
    if _mode() == "error" and (alias := _open_alias()):
        raise PublishedInTransaction(_message(task, alias, *_caller()) + " Nothing was published.")


@signals.before_task_publish.connect(weak=False, dispatch_uid="tasks_demo.transactions")
def _published(sender: Any = None, headers: Any = None, **_: Any) -> None:
    alias = _open_alias()
    headers = headers or {}
    # A retry is a copy of a job that was checked when it was published.
    if not alias or headers.get("retries") or any(name in headers for name in OURS):
        return
    mode = _mode()
    file, line = _caller()
    if mode == "off" or (file, line, str(sender)) in _reported:
        return
    if len(_reported) >= MOST:
        _reported.clear()
    _reported.add((file, line, str(sender)))
    logger.log(logging.ERROR if mode == "error" else logging.WARNING, "%s", _message(str(sender), alias, file, line))


def _mode() -> str:
    try:
        return str(settings.PUBLISH_IN_TRANSACTION)
    except InvalidSetting as error:
        logger.error("%s", error)
        return "warn"


def _open_alias() -> str:
    """Return the alias of a database on which a transaction is open, or ""."""
    return next((each.alias for each in connections.all(initialized_only=True) if transaction_open(each.alias)), "")


def _caller() -> tuple[str, int]:
    frame: Any = sys._getframe(1)
    while frame.f_back is not None and f"{frame.f_globals.get('__name__', '')}.".startswith(BETWEEN):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _message(task: str, alias: str, file: str, line: int) -> str:
    return (
        f"{task} is published at {file}:{line} while a transaction is open on the database {alias!r}: a worker may run it "
        "before the commit and see none of the data, and it runs even if the transaction is rolled back. Write "
        "delay_on_commit(...) to publish after the commit, or outbox.enqueue(...) to commit the job with the data "
        "(docs/reference/patterns/outbox.md)."
    )
