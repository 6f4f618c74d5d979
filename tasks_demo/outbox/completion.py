"""Finishes the row of an outbox message after the body, or releases it to a later copy.

What is **not** guaranteed: that a finished job is known as finished if its report failed. The report is retried while the process
lives; after that the message is published again.

A retry or a deferral releases the row to its own copy; a requeued, parked or killed delivery releases it to any copy. The
worker's main process reports revocations and hard time limits, because no body can.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from datetime import datetime, timedelta
from typing import Any

from celery import Task, signals
from celery.exceptions import Reject, Retry, TimeLimitExceeded
from django.db import connections

from tasks_demo.core.clock import Now
from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import NothingToRequeue
from tasks_demo.core.lifecycle import job_fields
from tasks_demo.outbox.claims import SuperfluousCopy
from tasks_demo.outbox.evidence import OPEN
from tasks_demo.outbox.reporting import changed, generation_of, holder_of, key_of, outbox_of, report
from tasks_demo.outbox.running import running
from tasks_demo.patterns.execution import ends_process
from tasks_demo.patterns.requeue import Unfinished
from tasks_demo.records.models import OutboxMessage

logger = logging.getLogger(__name__)
#: Maximum time, in seconds, that the event loop of the worker's main process waits for one of its own reports.
MAIN_SECONDS = 5.0
# Raw SQL, because nearly every job runs it and Django takes longer to build the statement than SQLite to execute it.
_FINISH = """
    UPDATE tasks_demo_records_outboxmessage SET finished_at = {now} WHERE task_id = %s AND finished_at IS NULL
"""


@signals.task_postrun.connect(weak=False, dispatch_uid="tasks_demo.outbox.finished")
def _ended(
    sender: Any = None, task_id: str = "", task: Any = None, state: Any = None, retval: Any = None, **_: Any
) -> None:
    request = task.request
    alias = outbox_of(request)
    if alias is None or isinstance(retval, SuperfluousCopy):
        return
    running.discard(key_of(alias, request))
    if isinstance(retval, NothingToRequeue):
        return
    if _is_end(task, state, retval):
        if report(alias, task_id, "finished", lambda: changed(alias, _FINISH, 0.0, [task_id])) is None:
            running.finish_later((alias, task_id))
        return
    later: dict[str, Any] = {"started_by": ""}
    seconds = _seconds_until_later_copy(state, retval)
    if seconds is None:  # the same message may be redelivered, or somebody may publish a copy
        later |= {"generation": OPEN, "due_at": Now() + timedelta(seconds=settings.OUTBOX_UNSTARTED_SECONDS)}
    else:
        due = timedelta(seconds=seconds + settings.OUTBOX_UNSTARTED_SECONDS)
        later |= {"published_at": Now() + timedelta(seconds=seconds), "due_at": Now() + due}
    mine = {"started_by": holder_of(request), "generation": generation_of(request)}
    _report(alias, task_id, mine, **later)


def _is_end(task: Any, state: Any, retval: Any) -> bool:
    """Return whether this execution is the last. Without a state, the body raised a BaseException that is not an Exception, and
    Celery stores FAILURE.
    """
    match state:
        case "SUCCESS":
            return True
        case "FAILURE":
            # Celery's main process ends on it before it acknowledges (celery/worker/request.py): the message is redelivered.
            return not (isinstance(retval, MemoryError) and task.acks_late)
        case "IGNORED":  # Ignore was raised by the body, or for a suppressed copy
            return not isinstance(retval, Unfinished)
        case "REJECTED":
            return not (getattr(retval, "requeue", False) or _retry_not_published(retval))
        case None:
            error = sys.exc_info()[1]
            return error is not None and not isinstance(error, Exception) and not ends_process(error)
    return False


def _retry_not_published(retval: Any) -> bool:
    """Return whether Celery, not the body, rejected the job because it could not publish the retry (celery/app/task.py
    ``retry``).
    """
    trace = retval.__traceback__ if isinstance(retval, Reject) else None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code is Task.retry.__code__


def _seconds_until_later_copy(state: Any, retval: Any) -> float | None:
    """Return the seconds until the later copy is delivered, or None if no later copy is known."""
    if isinstance(retval, Unfinished):
        return retval.seconds
    if state != "RETRY" or not isinstance(retval, Retry) or retval.when is None:
        return None
    if isinstance(retval.when, datetime):
        return max(0.0, retval.when.timestamp() - time.time())
    return max(0.0, float(retval.when))


@signals.task_failure.connect(weak=False, dispatch_uid="tasks_demo.outbox.timed_out")
def _timed_out(sender: Any = None, task_id: str = "", exception: Any = None, **_: Any) -> None:
    """Report a hard time limit. Only main can, because it kills the pool process. That process reports other failures.

    Celery sends this signal twice (celery/worker/request.py): from ``on_failure`` with the request, unless the message is
    requeued, which is not an end; and always from ``on_timeout``, without the request. So pools that only call ``on_timeout``
    (gevent) report nothing, and the message is redelivered.
    """
    if isinstance(exception, TimeLimitExceeded):
        _report_from_main(sender.request, task_id, finished_at=Now())


@signals.task_revoked.connect(weak=False, dispatch_uid="tasks_demo.outbox.revoked")
def _revoked(sender: Any = None, request: Any = None, **_: Any) -> None:
    # Somebody decided that the job must not run, so the reconciler must not publish it again.
    _report_from_main(request, request.id, finished_at=Now(), error="revoked")


def _report_from_main(request: Any, task_id: str, **values: Any) -> None:
    """Call ``_report`` from main's event loop without blocking it for longer than MAIN_SECONDS.

    The report runs in a thread with its own connection, so that no connection goes stale in main or is inherited by a fork. If
    the report takes longer, the loop continues, and the row is updated late or not at all; then the message is published again.
    """
    alias = outbox_of(request)
    if alias is None:
        return

    def report() -> None:
        try:
            _report(alias, task_id, {}, **values)
        finally:
            connections.close_all()

    thread = threading.Thread(target=report, name="outbox-report", daemon=True)
    thread.start()
    thread.join(MAIN_SECONDS)
    if thread.is_alive():
        logger.warning(
            "The outbox has not answered for %g s: %s may be published again.",
            MAIN_SECONDS, task_id, extra=job_fields(task_id=task_id),
        )  # fmt: skip


def _report(alias: str, task_id: str, expected: dict[str, Any], **values: Any) -> None:
    """Update the row unless it has finished or does not match ``expected``."""
    rows = OutboxMessage.objects.using(alias).filter(task_id=task_id, finished_at=None, **expected)
    report(alias, task_id, "/".join(values), lambda: rows.update(**values))
