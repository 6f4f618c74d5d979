"""Counts deliveries that began and never ended, and parks a message whose attempts are used up instead of running it again.

Part of the late-acknowledging patterns. An attempt is a delivery that got as far as its body. It is counted, and the count
committed, before the body begins; it is uncounted when the body ends normally (a return, an exception, a retry). So only deaths
accumulate, of the pool process as well as of the worker's main process. A deferral uncounts only its own attempt: the message is
delivered again, and earlier deaths still count.

    received ─▶ count ─┬─ admitted ─▶ started ─▶ effect ─▶ returned ─▶ uncount ─▶ acked
                ▲      │                └─ killed: the count stays, the message is redelivered ─┐
                └──────┼────────────────────────────────────────────────────────────────────────┘
                       ├─ attempts used up ─▶ parked and uncounted in one transaction, then acked   (quarantined)
                       └─ already parked ───▶ acked: the parked row is the message               (quarantined)

Does **not** guarantee:

- That only poison messages are parked. When a worker dies, the attempts of all jobs that it was running count, and so do
  deployments that kill workers. Such messages are not lost: a parked message waits for ``requeue``.
- That a body which outlives the visibility timeout is not counted again: a copy that still runs has not ended either.
- That a death after the body counts: if the worker is killed before its acknowledgement arrives, the message is redelivered
  uncounted.
- A result for callers that wait for one: a parked job has neither failed nor succeeded, and its state does not change.
- That no copy runs after ``requeue`` or ``discard``: a worker that was killed between parking and acknowledging has left a copy
  in the broker. It is redelivered and runs, and its attempts are counted from zero.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from celery.exceptions import Reject
from django.db import Error, connections, router, transaction
from django.utils import timezone

from tasks_demo.core import clock
from tasks_demo.core.conf import settings
from tasks_demo.core.databases import execute
from tasks_demo.core.exceptions import InvalidSetting, RecordsUnavailable
from tasks_demo.core.lifecycle import Point, described, job_fields, reached
from tasks_demo.leases.process import parse_process, this_process
from tasks_demo.patterns.parking import PROCESS, announce, park
from tasks_demo.patterns.requeue import PARKED, Unfinished, bounded_int, defer, has_message, log_delivery
from tasks_demo.patterns.transactions import outside_transactions
from tasks_demo.records.fields import fit_column
from tasks_demo.records.models import Attempt, Parked

logger = logging.getLogger(__name__)


class MaxAttemptsSetting:
    """The default of ``max_attempts``: TASKS_DEMO_MAX_ATTEMPTS, read at each access. A declaration replaces it."""

    def __get__(self, task: object, owner: type | None = None) -> int:
        return int(settings.MAX_ATTEMPTS)


_PARKED = "SELECT 1 FROM tasks_demo_records_parked WHERE task_id = %s AND state = 'parked' AND id <> %s"
# One statement and one commit. Changes nothing and returns no row if the message is parked or its attempts are used up.
_COUNT = f"""
    INSERT INTO tasks_demo_records_attempt (task_id, retries, count, history, last_at)
    SELECT %s, %s, 1, %s, %s
    WHERE NOT EXISTS ({_PARKED})
    ON CONFLICT (task_id, retries) DO UPDATE
    SET count = tasks_demo_records_attempt.count + 1, history = tasks_demo_records_attempt.history || excluded.history,
        last_at = excluded.last_at
    WHERE tasks_demo_records_attempt.count < %s
    RETURNING count
"""  # noqa: S608  (the constant above)
#: Parameters: task ID, retries, the attempt's line. It changes nothing unless the attempt is the only one, as nearly always.
TAKE_BACK = "DELETE FROM tasks_demo_records_attempt WHERE task_id = %s AND retries = %s AND history = %s"


class Counted:
    """The attempt of one delivery, while its body runs. ``key`` None: it is not counted."""

    def __init__(self, alias: str = "", key: tuple[str, int] | None = None, line: str = "") -> None:
        self.alias, self.key, self.line = alias, key, line
        #: Taken back in the transaction of the body, which has been committed if the body's end was a return.
        self.is_taken_back = False


@contextmanager
def count_attempt(task: Any, body: Any) -> Iterator[Counted]:
    """Count this delivery while the ``body`` (an Execution) runs. Costs two small commits; ``max_attempts`` None: nothing.

    A pattern with a transaction around the body may take the attempt back in that transaction (``TAKE_BACK``, ``is_taken_back``),
    which saves the second commit.

    If the attempts are used up, the message is parked and Unfinished raised, so that Celery acknowledges it and the worker
    continues. If the database does not answer, the message is requeued and the body does not run. Raises TransactionOpen where a
    rollback could erase the count.
    """
    try:
        limit = task.max_attempts
    except InvalidSetting as error:
        defer(task, error)
    if limit is None or not has_message(task.request):
        yield Counted()
        return
    alias = alias_of(task)
    key = (fit_column(task.request.id or ""), bounded_int(task.request.retries, 2**31 - 1))
    outside_transactions(task, alias)
    line = _line(task)
    try:
        admitted = _admit(task, alias, key, line, limit)
    except Error as error:
        connections[alias].close()  # it may be broken, and Celery would reuse it
        defer(task, _unavailable(alias, error))
    if not admitted:
        why = "it is already parked: this copy is acknowledged and not run"
        log_delivery(task, logging.INFO, "already parked", why)
        reached(Point.QUARANTINED, why=why)
        raise Unfinished("already parked")
    counted = Counted(alias, key, line)
    try:
        yield counted
    except MemoryError:
        raise  # counts as a death: Celery's main process exits on it before it acknowledges (worker/request.py)
    except Exception as error:
        _uncount(alias, key, line, over=body.begun and not _is_redelivered(error))
        raise
    # Not in a finally: SystemExit and the like end the process, which counts as a death.
    if not counted.is_taken_back:
        _uncount(alias, key, line, over=True)


def _is_redelivered(error: Exception) -> bool:
    """Return whether this message is delivered again, or a copy of it with the same number of retries."""
    return isinstance(error, Unfinished) or (isinstance(error, Reject) and bool(getattr(error, "requeue", False)))


def alias_of(task: Any) -> str:
    """Return the alias of the database that holds the attempts and the parked messages of this task."""
    return str(task.using or router.db_for_write(Attempt))


def _line(task: Any) -> str:
    """Return a line for this attempt in the history of its message; no two attempts have the same line."""
    process = str(this_process(task.request.id or ""))
    at = clock.aware(timezone.now()).isoformat()
    return json.dumps({"at": at, "worker": task.request.hostname or "", "pid": os.getpid(), PROCESS: process}) + "\n"


def _admit(task: Any, alias: str, key: tuple[str, int], line: str, limit: int) -> bool:
    """Count one more attempt. Returns False if the message is already parked. If its attempts are used up, parks it and raises
    Unfinished."""
    request = task.request
    task_id, retries = key
    source = bounded_int((request.headers or {}).get(PARKED), 2**63 - 1)
    moment = connections[alias].ops.adapt_datetimefield_value(timezone.now())
    while True:
        _, counts = execute(alias, _COUNT, [task_id, retries, line, moment, task_id, source, limit])
        if counts == [(1,)] and _parked_meanwhile(alias, task_id, source):
            execute(alias, TAKE_BACK, [*key, line])
            return False
        if counts:
            return True
        with transaction.atomic(using=alias):
            held = Parked.objects.using(alias).filter(task_id=task_id, state=Parked.State.PARKED)
            if held.exclude(pk=source).exists():
                return False
            attempts = Attempt.objects.using(alias).select_for_update()
            attempt = attempts.filter(task_id=task_id, retries=retries).first()
            if attempt is not None:
                parked = park(task, attempt, source, alias)
        if attempt is not None:
            announce(task, parked)
        # Neither parked nor counted: another copy ended after the count was refused. Count again.


def _parked_meanwhile(alias: str, task_id: str, source: int) -> bool:
    """Return whether it was parked while the count waited for a COMMIT: PostgreSQL does not evaluate NOT EXISTS again then."""
    if connections[alias].vendor == "sqlite":
        return False
    return bool(execute(alias, _PARKED, [task_id, source])[1])


def _uncount(alias: str, key: tuple[str, int], line: str, *, over: bool) -> None:
    """Remove this attempt and, if the message is not delivered again (``over``), those of processes known to have ended.

    The attempt of a copy that still runs stays, because its death would count.
    """
    try:
        done = execute(alias, TAKE_BACK, [*key, line])[0] > 0
        while not done:
            attempt = Attempt.objects.using(alias).filter(task_id=key[0], retries=key[1]).first()
            if attempt is None:
                return
            others = [other for other in attempt.history.splitlines(keepends=True) if other != line]
            left = [other for other in others if not (over and _ended(other))]
            same = Attempt.objects.using(alias).filter(pk=attempt.pk, history=attempt.history)
            # False if another copy has begun or ended since; then read the row again.
            done = bool(same.update(history="".join(left), count=len(left)) if left else same.delete()[0])
    except Exception as error:  # noqa: BLE001  (the body has ended: a failure here must not change its outcome)
        logger.warning(
            "An ended attempt of %s could not be uncounted and counts as a death: %s",
            key[0], described(error), extra=job_fields(task_id=key[0]),
        )  # fmt: skip
        with suppress(Exception):
            connections[alias].close()


def _ended(line: str) -> bool:
    holder = parse_process(str(json.loads(line).get(PROCESS)))
    return holder is not None and holder.gone


def _unavailable(alias: str, error: Error) -> RecordsUnavailable:
    return RecordsUnavailable(
        f"The attempt could not be counted in the database {alias!r}: {str(error).partition(chr(10))[0]}. The body was not "
        "run; the message is requeued. Is the database running, writable and migrated (`manage.py migrate`)?"
    )
