"""Records effects that a task without books reports itself."""

from __future__ import annotations

import hashlib
import logging
import uuid
from functools import partial
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from django.db import connections, transaction

from tasks_demo.core.conf import settings
from tasks_demo.core.lifecycle import current, described, job_fields
from tasks_demo.ledger.books import RECORDED, counted_by
from tasks_demo.ledger.database import off_in_tests

logger = logging.getLogger(__name__)


def record_effect(operation: str | None = None, *, key: str = "", **detail: Any) -> bool:
    """Record an effect from the body of a task that has no books. Returns whether it is committed. Raises only
    SoftTimeLimitExceeded, which is meant for the body.

    Does **not** guarantee that every effect is recorded: a worker that is killed between the effect and this call records none.
    So a missing record is never called a loss: without books the dashboard judges executions.

    ``operation``: the operation key, by default that of the current delivery. ``key``: identifies this effect, for example a
    receipt number. An effect recorded twice under one key counts once; without a key each call counts as one effect. ``detail``
    is shown in timelines.

    Inside a transaction the effect is recorded after the commit, and not after a rollback; False is returned. Otherwise this
    waits for the ledger at most TASKS_DEMO_LEDGER_WAIT_SECONDS, and not at all while the ledger is unavailable: then the effect
    is written later, and False is returned.
    """
    try:
        return _record(operation, key, detail)
    except SoftTimeLimitExceeded:
        raise  # meant for the calling body
    except Exception as error:  # noqa: BLE001  (the effect has happened: recording it must not fail the job)
        logger.error("An effect was not recorded: %s", described(error), extra=job_fields())
        return False


def _record(operation: str | None, key: str, detail: dict[str, Any]) -> bool:
    subject = current()
    if operation is None:
        operation = subject.operation if subject else ""
    if not operation or not settings.LEDGER or off_in_tests():
        return False
    if subject and counted_by(subject.books):
        logger.warning(
            "%s[%s]: record_effect was ignored, because the books %r count the task's effects and it would count twice.",
            subject.task, subject.task_id, subject.books, extra=job_fields(),
        )  # fmt: skip
        return False
    from tasks_demo.ledger.recorder import recorder  # recorder imports books

    key = str(key)
    name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest() if key else uuid.uuid4().hex
    record = partial(
        recorder.effect, f"{RECORDED}:{name}", str(operation), {"source": f"{RECORDED}:{key or name}", **detail}
    )
    # Inside a transaction the effect may still be rolled back.
    open_here = [each for each in connections.all(initialized_only=True) if each.in_atomic_block]
    if open_here:
        transaction.on_commit(record, using=open_here[0].alias, robust=True)
        return False
    return record()
