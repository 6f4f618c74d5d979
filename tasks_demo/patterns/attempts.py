"""Counts the deliveries that began and never ended, and parks a message whose attempts are used up, instead of redelivering it.

Part of the late-acknowledging patterns. An attempt is a delivery that got as far as its body. It is counted, and the count
committed, before the body begins, and taken back when the body ends in any ordinary way (a return, an exception, a retry). So
only deaths add up: those of the pool process and of the worker's main process alike. A deferral takes back its own attempt only:
the message is delivered again, and the deaths before still count.

    received ─▶ count ─┬─ admitted ─▶ started ─▶ effect ─▶ returned ─▶ take back ─▶ acked
                ▲      │                └─ killed: the count stays, the message is redelivered ─┐
                └──────┼────────────────────────────────────────────────────────────────────────┘
                       ├─ attempts used up ─▶ parked and uncounted in one transaction, then acked   (quarantined)
                       └─ parked already ───▶ acked: the parked row is the message               (quarantined)

What is **not** guaranteed:

- That only poison messages are parked. A message that shares a worker with one dies with it, and that attempt counts; so do
  deployments that kill. Nothing is lost by it: a parked message waits for ``requeue``.
- That a body which outlives the visibility timeout is not counted again: a copy that still runs has not ended either.
- That a death after the body counts: if the worker is killed before its acknowledgement arrives, the message is redelivered
  uncounted.
- An answer for whoever waits on the result: a parked task has neither failed nor succeeded, and its state stays as it was.
- That a copy which is redelivered after ``requeue`` or ``discard`` is held back: a worker killed between parking and
  acknowledging has left one in the broker. It runs, counted from the beginning.
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
    """The class attribute ``max_attempts`` unless a declaration replaces it: TASKS_DEMO_MAX_ATTEMPTS, read at each access."""

    def __get__(self, task: object, owner: type | None = None) -> int:
        return int(settings.MAX_ATTEMPTS)


_PARKED = "SELECT 1 FROM tasks_demo_records_parked WHERE task_id = %s AND state = 'parked' AND id <> %s"
# One statement, one commit. It changes and returns nothing if the message is parked or its attempts are used up.
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
# Nearly always the attempt is the only one.
_TAKE_BACK = "DELETE FROM tasks_demo_records_attempt WHERE task_id = %s AND retries = %s AND history = %s"


@contextmanager
def count_attempt(task: Any, body: Any) -> Iterator[None]:
    """Count this delivery while the ``body`` (an Execution) runs. Costs two small commits; ``max_attempts`` None: nothing.

    If the attempts are used up, the message is parked and Unfinished raised, so that Celery acknowledges it and the
    worker goes on. If the database does not answer, the message is requeued, and the body does not run. Raises TransactionOpen
    where a rollback could take the count along.
    """
    try:
        limit = task.max_attempts
    except InvalidSetting as error:
        defer(task, error)
    if limit is None or not has_message(task.request):
        yield
        return
    alias = alias_of(task)
    key = (fit_column(task.request.id or ""), bounded_int(task.request.retries, 2**31 - 1))
    outside_transactions(task, alias)
    line = _line(task)
    try:
        admitted = _admit(task, alias, key, line, limit)
    except Error as error:
        connections[alias].close()  # it may be broken, and Celery keeps it for a thousand tasks
        defer(task, _unavailable(alias, error))
    if not admitted:
        why = "it is parked already: this copy is acknowledged and not run"
        log_delivery(task, logging.INFO, "parked already", why)
        reached(Point.QUARANTINED, why=why)
        raise Unfinished("parked already")
    try:
        yield
    except MemoryError:
        raise  # Celery's main process ends itself over it before it acknowledges (worker/request.py): a death like others
    except Exception as error:
        _take_back(alias, key, line, over=body.begun and not _goes_on(error))
        raise
    # Not after SystemExit and the like: that is how a process ends.
    _take_back(alias, key, line, over=True)


def _goes_on(error: Exception) -> bool:
    """Whether the same message is delivered again, or a copy of it with as many retries."""
    return isinstance(error, Unfinished) or (isinstance(error, Reject) and bool(getattr(error, "requeue", False)))


def alias_of(task: Any) -> str:
    """The database that holds the attempts and the parked messages of this task."""
    return str(task.using or router.db_for_write(Attempt))


def _line(task: Any) -> str:
    """This attempt as a line in the history of its message, different from that of every other attempt."""
    process = str(this_process(task.request.id or ""))
    at = clock.aware(timezone.now()).isoformat()
    return json.dumps({"at": at, "worker": task.request.hostname or "", "pid": os.getpid(), PROCESS: process}) + "\n"


def _admit(task: Any, alias: str, key: tuple[str, int], line: str, limit: int) -> bool:
    """Count one more attempt. False: it is parked already. Parks it, and raises Unfinished, if its attempts are used up."""
    request = task.request
    task_id, retries = key
    source = bounded_int((request.headers or {}).get(PARKED), 2**63 - 1)
    moment = connections[alias].ops.adapt_datetimefield_value(timezone.now())
    while True:
        with connections[alias].cursor() as cursor:
            cursor.execute(_COUNT, [task_id, retries, line, moment, task_id, source, limit])
            counts = cursor.fetchall()
            if counts == [(1,)] and _parked_meanwhile(cursor, alias, task_id, source):
                cursor.execute(_TAKE_BACK, [*key, line])
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
        # Neither parked nor counted: another copy has ended since the count was refused. Count again.


def _parked_meanwhile(cursor: Any, alias: str, task_id: str, source: int) -> bool:
    """Whether it was parked while the count waited: PostgreSQL does not evaluate NOT EXISTS again after waiting for a COMMIT."""
    if connections[alias].vendor == "sqlite":
        return False
    cursor.execute(_PARKED, [task_id, source])
    return cursor.fetchone() is not None


def _take_back(alias: str, key: tuple[str, int], line: str, *, over: bool) -> None:
    """Remove this attempt, and if the message is ``over``, those of processes that are known to have ended.

    The attempt of another copy that still runs stays: its death would count.
    """
    try:
        with connections[alias].cursor() as cursor:
            cursor.execute(_TAKE_BACK, [*key, line])
            done = cursor.rowcount > 0
        while not done:
            attempt = Attempt.objects.using(alias).filter(task_id=key[0], retries=key[1]).first()
            if attempt is None:
                return
            others = [other for other in attempt.history.splitlines(keepends=True) if other != line]
            left = [other for other in others if not (over and _ended(other))]
            same = Attempt.objects.using(alias).filter(pk=attempt.pk, history=attempt.history)
            # False: another copy has begun or ended since. Look again.
            done = bool(same.update(history="".join(left), count=len(left)) if left else same.delete()[0])
    except Exception as error:  # noqa: BLE001  (the body has ended: no failure of ours may change how)
        logger.warning(
            "The attempt of %s was not taken back and counts as a death: %s",
            key[0],
            described(error),
            extra=job_fields(task_id=key[0]),
        )
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
