"""After the body: the row of an outbox message is finished, or released to a later copy.

A retry or a deferral releases the row to that copy; a requeued, parked or killed delivery releases it to any. Revocations and
hard time limits are reported by the worker's main process, because no body does.

What is **not** guaranteed: that a finished job whose report failed is known as finished. The report is retried for as long as the
process lives; after that the message is published again.
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
from tasks_demo.outbox.claims import Superfluous
from tasks_demo.outbox.evidence import OPEN
from tasks_demo.outbox.reporting import attempt, changed, generation_of, holder_of, key_of, outbox_of
from tasks_demo.outbox.running import running
from tasks_demo.patterns.execution import ends_process
from tasks_demo.patterns.requeue import Unfinished
from tasks_demo.records.models import OutboxMessage

logger = logging.getLogger(__name__)
#: Maximum time, in seconds, for which the event loop of the worker's main process waits for one of its own reports.
MAIN_SECONDS = 5.0
# Nearly every job needs it, so it is written out: Django takes longer to build this statement than SQLite to run it.
_FINISH = """
    UPDATE tasks_demo_records_outboxmessage SET finished_at = {now} WHERE task_id = %s AND finished_at IS NULL
"""


@signals.task_postrun.connect(weak=False, dispatch_uid="tasks_demo.outbox.finished")
def _ended(
    sender: Any = None, task_id: str = "", task: Any = None, state: Any = None, retval: Any = None, **_: Any
) -> None:
    request = task.request
    alias = outbox_of(request)
    if alias is None or isinstance(retval, Superfluous):
        return
    running.discard(key_of(alias, request))
    if isinstance(retval, NothingToRequeue):
        return
    if _is_end(state, retval):
        if attempt(alias, task_id, "finished", lambda: changed(alias, _FINISH, 0.0, [task_id])) is None:
            running.finish_later((alias, task_id))
        return
    later: dict[str, Any] = {"started_by": ""}
    seconds = _seconds_until_later_copy(state, retval)
    if seconds is None:  # the same message may be redelivered, or somebody publishes a copy
        later |= {"generation": OPEN, "due_at": Now() + timedelta(seconds=settings.OUTBOX_UNSTARTED_SECONDS)}
    else:
        due = timedelta(seconds=seconds + settings.OUTBOX_UNSTARTED_SECONDS)
        later |= {"published_at": Now() + timedelta(seconds=seconds), "due_at": Now() + due}
    mine = {"started_by": holder_of(request), "generation": generation_of(request)}
    _report(alias, task_id, mine, **later)


def _is_end(state: Any, retval: Any) -> bool:
    """Whether nothing comes after this execution. No state: it raised what is no Exception, and Celery stores FAILURE."""
    match state:
        case "SUCCESS" | "FAILURE":
            return True
        case "IGNORED":  # raised by the body, or for a copy that was suppressed
            return not isinstance(retval, Unfinished)
        case "REJECTED":
            return not (getattr(retval, "requeue", False) or _retry_not_published(retval))
        case None:
            error = sys.exc_info()[1]
            return error is not None and not isinstance(error, Exception) and not ends_process(error)
    return False


def _retry_not_published(retval: Any) -> bool:
    """Whether Celery rejects the job because it could not publish its retry (celery/app/task.py ``retry``), not the body."""
    trace = retval.__traceback__ if isinstance(retval, Reject) else None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code is Task.retry.__code__


def _seconds_until_later_copy(state: Any, retval: Any) -> float | None:
    """When the later copy that was published is delivered; None: none is known."""
    if isinstance(retval, Unfinished):
        return retval.seconds
    if state != "RETRY" or not isinstance(retval, Retry) or retval.when is None:
        return None
    if isinstance(retval.when, datetime):
        return max(0.0, retval.when.timestamp() - time.time())
    return max(0.0, float(retval.when))


@signals.task_failure.connect(weak=False, dispatch_uid="tasks_demo.outbox.timed_out")
def _timed_out(sender: Any = None, task_id: str = "", exception: Any = None, **_: Any) -> None:
    """Report a hard time limit, which only main can: it kills the process. Other failures are reported by that process.

    Celery sends this twice (celery/worker/request.py): from ``on_failure`` with the request at hand, unless the message is
    requeued, which is no end; and from ``on_timeout`` always, without it. Pools that know ``on_timeout`` only (gevent) therefore
    report nothing, and the message is redelivered.
    """
    if isinstance(exception, TimeLimitExceeded):
        _report_from_main(sender.request, task_id, finished_at=Now())


@signals.task_revoked.connect(weak=False, dispatch_uid="tasks_demo.outbox.revoked")
def _revoked(sender: Any = None, request: Any = None, **_: Any) -> None:
    # Somebody decided that it must not run: the reconciler must not publish it again.
    _report_from_main(request, request.id, finished_at=Now(), error="revoked")


def _report_from_main(request: Any, task_id: str, **values: Any) -> None:
    """As ``_report``, in main's event loop, which no database may block for longer than MAIN_SECONDS.

    The thread has a connection of its own, so that none is left open to go stale in main or to be inherited by a fork. If it
    takes longer the loop goes on, and the row is updated late or not at all: the message is then published again.
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
    """Update the row, unless it has finished or is not as ``expected``."""
    rows = OutboxMessage.objects.using(alias).filter(task_id=task_id, finished_at=None, **expected)
    attempt(alias, task_id, "/".join(values), lambda: rows.update(**values))
