"""Defer or requeue a delivery, so that the broker has a copy of it at all times."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from celery.exceptions import Ignore, Reject

from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import InvalidSetting, NothingToRequeue
from tasks_demo.core.lifecycle import Point, Subject, current, described, job_fields, reached
from tasks_demo.core.limited_log import limited_log

logger = logging.getLogger(__name__)
#: Header: how often this message was deferred.
DEFERRALS = "tasks_demo_deferrals"
#: Header of a message that was requeued from the quarantine: the ID of its parked row, which no longer stops it from running.
PARKED = "tasks_demo_parked"
#: Seconds to wait before a message is rejected with requeue: the broker redelivers it immediately, so this limits the loop.
BRAKE_SECONDS = 1.0


class Unfinished(Ignore):
    """Celery acknowledges this copy and stores no result: another copy runs the job, or the message is parked."""

    #: Delay of the published copy; None: none was published.
    seconds: float | None = None


class Suppressed(Ignore):
    """Celery acknowledges this copy and stores no result: the job has an outcome, or another delivery will store it."""


def defer(
    task: Any,
    why: str | BaseException,
    *,
    at_most: float = math.inf,
    headers: Mapping[str, Any] | None = None,
    level: int = logging.WARNING,
) -> NoReturn:
    """Publish a delayed copy under the same task ID, then let Celery acknowledge the original.

    The delay is 1 s, doubled with every deferral, at most ``at_most`` seconds and TASKS_DEMO_DEFER_MAX_SECONDS, plus up to 10 %
    jitter. ``headers`` are added to those of the message. If the copy cannot be published, see ``requeue_original``. Always
    raises: Unfinished or Reject, which Celery handles; NothingToRequeue in eager mode, where the copy would run immediately.
    """
    request, kind = task.request, why
    cause: BaseException | None = None
    if isinstance(why, BaseException):
        cause = why
        why, kind = described(cause), type(cause).__name__
    if not has_message(request):
        raise NothingToRequeue(
            f"{task.name}[{request.id}] runs eagerly, so there is no message that could be requeued. A worker would requeue it: "
            f"{why.rstrip('.')}. The job is not retried. In tests, use tasks_demo.testing, which needs no Redis and no broker."
        )
    if request.is_eager:  # tasks_demo.testing keeps the message and redelivers it on request
        reached(Point.DEFERRED, why=why)
        raise Unfinished(why) from cause
    try:
        copied = {**(request.headers or {}), **(headers or {})}
        copied.pop("redelivered", None)  # set by the broker, about the original
        count = bounded_int(copied.get(DEFERRALS), 2**31) + 1
        # Jitter, so that deliveries deferred together are not redelivered together.
        countdown = min(2.0 ** min(count - 1, 16), at_most, _longest()) * (1 + random.random() / 10)
        copied[DEFERRALS] = count
        task.signature_from_request(request, countdown=countdown, headers=copied).apply_async()
    except Exception as error:  # noqa: BLE001  (Celery would acknowledge after a failure here, and the job would be lost)
        requeue_original(task, why, error)
    log_delivery(task, level, str(kind), "requeued, to be delivered again in %.1f s: %s", countdown, why)
    reached(Point.DEFERRED, why=why, seconds=round(countdown, 3))
    over = Unfinished(why)
    over.seconds = countdown
    raise over


def has_message(request: Any) -> bool:
    """Return whether this execution has a message that can be requeued; an eager call has none."""
    return not request.is_eager or "redelivered" in (request.delivery_info or {})


def log_delivery(task: Any, level: int, kind: str, what: str, *args: Any, subject: Subject | None = None) -> None:
    """Log what happens to the running delivery, or to that of ``subject``, because Celery logs only that it was ignored.
    Rate-limited by task name and ``kind``."""
    about = subject or current()
    task_id = subject.task_id if subject else task.request.id
    limited_log(
        logger, level, (task.name, kind), "%s[%s], operation %r: " + what,
        task.name, task_id, about.operation if about else task_id, *args, extra=job_fields(about, task_id=task_id),
    )  # fmt: skip


def requeue_original(task: Any, why: str, error: BaseException) -> NoReturn:
    """Reject the original so that the broker requeues it, because no copy of it could be published. Always raises Reject.

    With late acknowledgement the broker redelivers it immediately, so this waits BRAKE_SECONDS first. With early acknowledgement
    the message is lost, and an ERROR is logged.
    """
    stays = "rejected, so that the broker delivers it again" if task.acks_late else "lost: it is already acknowledged"
    log_delivery(
        task, logging.ERROR, f"not published: {type(error).__name__}", "%s, and no copy could be published: %s. It is %s.",
        why, described(error), stays,
    )  # fmt: skip
    if task.acks_late:
        time.sleep(BRAKE_SECONDS)
    raise Reject(why, requeue=True) from error


def bounded_int(value: Any, most: int) -> int:
    """Return the value if it is an integer from 0 to ``most``, else 0: headers come from the publisher and can be anything."""
    return value if type(value) is int and 0 <= value <= most else 0


def _longest() -> float:
    try:
        return float(settings.DEFER_MAX_SECONDS)
    except InvalidSetting as error:
        logger.error("%s", error)
        return type(settings).DEFER_MAX_SECONDS
