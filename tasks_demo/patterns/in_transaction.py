"""Says that a job was published inside an open transaction: a worker may run it before the commit, or after a rollback.

What is **not** seen: a transaction that was opened with SQL of one's own. Celery logs what a signal handler raises and goes on,
so with ``TASKS_DEMO_PUBLISH_IN_TRANSACTION = "error"`` only the tasks of a pattern are refused; for others the log has an ERROR.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from celery import signals
from django.db import connections

from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import InvalidSetting, PublishedInTransaction
from tasks_demo.patterns.operation_rows import transaction_open
from tasks_demo.patterns.requeue import DEFERRALS, PARKED

logger = logging.getLogger(__name__)
#: Packages between whoever publishes and this module.
BETWEEN = ("celery.", "kombu.", "vine.", "tasks_demo.patterns.", "functools", "contextlib", "django.utils.functional")
#: Headers of copies that we publish ourselves: requeued deliveries, and what a relay or people send from their tables.
OURS = (DEFERRALS, PARKED, "tasks_demo_outbox")
#: Places that are remembered at most.
MOST = 10_000
_said: set[tuple[str, int, str]] = set()


def refuse_in_transaction(task: str) -> None:
    """Raise PublishedInTransaction if a transaction is open and the setting makes that an error."""
    if _mode() == "error" and (alias := _open()):
        raise PublishedInTransaction(_sentence(task, alias, *_caller()) + " Nothing was published.")


@signals.before_task_publish.connect(weak=False, dispatch_uid="tasks_demo.in_transaction")
def _published(sender: Any = None, headers: Any = None, **_: Any) -> None:
    alias = _open()
    headers = headers or {}
    # A retry is a copy of what was published before.
    if not alias or headers.get("retries") or any(name in headers for name in OURS):
        return
    mode = _mode()
    file, line = _caller()
    if mode == "off" or (file, line, str(sender)) in _said:
        return
    if len(_said) >= MOST:
        _said.clear()
    _said.add((file, line, str(sender)))
    logger.log(logging.ERROR if mode == "error" else logging.WARNING, "%s", _sentence(str(sender), alias, file, line))


def _mode() -> str:
    try:
        return str(settings.PUBLISH_IN_TRANSACTION)
    except InvalidSetting as error:
        logger.error("%s", error)
        return "warn"


def _open() -> str:
    """The alias of a database on which a transaction is open, or ""."""
    return next((each.alias for each in connections.all(initialized_only=True) if transaction_open(each.alias)), "")


def _caller() -> tuple[str, int]:
    frame: Any = sys._getframe(1)
    while frame.f_back is not None and f"{frame.f_globals.get('__name__', '')}.".startswith(BETWEEN):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _sentence(task: str, alias: str, file: str, line: int) -> str:
    return (
        f"{task} is published at {file}:{line} while a transaction is open on the database {alias!r}: a worker may run it "
        "before the commit and see none of the data, and it runs even if the transaction is rolled back. Write "
        "delay_on_commit(...) to publish after the commit, or outbox.enqueue(...) to commit the job with the data "
        "(docs/reference/patterns/outbox.md)."
    )
