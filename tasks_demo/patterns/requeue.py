"""Requeue a delivery for later, without a moment in which the broker holds no copy of it."""

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
#: Header that counts how often this message was deferred.
DEFERRALS = "tasks_demo_deferrals"
#: Header of a message that people sent again out of the quarantine: its parked row, which does not stop it.
PARKED = "tasks_demo_parked"
#: What a pool process waits before it has a message requeued undelayed, seconds: the broker delivers it again at once.
BRAKE_SECONDS = 1.0


class Unfinished(Ignore):
    """Celery acknowledges this copy and reports nothing; the work goes on with another, or waits for people in quarantine."""

    #: Until the copy that was published is delivered; None: there is none.
    seconds: float | None = None


class Suppressed(Ignore):
    """Celery acknowledges this copy and stores nothing: its task has an outcome, or another delivery is to give it one."""


def defer(
    task: Any,
    why: str | BaseException,
    *,
    at_most: float = math.inf,
    headers: Mapping[str, Any] | None = None,
    level: int = logging.WARNING,
) -> NoReturn:
    """Publish a delayed copy under the same task ID, then let the original be acknowledged.

    It is delayed by 1 s, by twice as long with every deferral, and never by more than ``at_most`` seconds and
    TASKS_DEMO_DEFER_MAX_SECONDS. ``headers`` are added to its own. If the copy cannot be published, for whatever reason, see
    ``requeue_original``. Always raises (Unfinished or Reject, which Celery understands; NothingToRequeue in eager mode, where the
    copy would run here and now).
    """
    request, kind = task.request, why
    cause: BaseException | None = None
    if isinstance(why, BaseException):
        cause = why
        why, kind = described(cause), type(cause).__name__
    if not has_message(request):
        raise NothingToRequeue(
            f"{task.name}[{request.id}] runs eagerly, so there is no message that could be requeued. A worker would requeue it: "
            f"{why.rstrip('.')}. Nothing tries it again. In tests, tasks_demo.testing needs no Redis and no broker."
        )
    if request.is_eager:  # tasks_demo.testing keeps the message, and delivers it again when it is told to
        reached(Point.DEFERRED, why=why)
        raise Unfinished(why) from cause
    try:
        copied = {**(request.headers or {}), **(headers or {})}
        copied.pop("redelivered", None)  # the broker's word about the original
        count = bounded_int(copied.get(DEFERRALS), 2**31) + 1
        # Jitter, so that deliveries that were deferred together do not return together.
        countdown = min(2.0 ** min(count - 1, 16), at_most, _longest()) * (1 + random.random() / 10)
        copied[DEFERRALS] = count
        task.signature_from_request(request, countdown=countdown, headers=copied).apply_async()
    except Exception as error:  # noqa: BLE001  (a failure here would be acknowledged, and the job gone)
        requeue_original(task, why, error)
    log_delivery(task, level, str(kind), "requeued, to be delivered again in %.1f s: %s", countdown, why)
    reached(Point.DEFERRED, why=why, seconds=round(countdown, 3))
    over = Unfinished(why)
    over.seconds = countdown
    raise over


def has_message(request: Any) -> bool:
    """Whether there is a message behind this execution, that can come again; behind an eager call there is none."""
    return not request.is_eager or "redelivered" in (request.delivery_info or {})


def log_delivery(task: Any, level: int, kind: str, what: str, *args: Any, subject: Subject | None = None) -> None:
    """Log what becomes of this delivery, or of that of ``subject``, where Celery says only that it was ignored; rate-limited by
    task name and ``kind``."""
    about = subject or current()
    task_id = subject.task_id if subject else task.request.id
    limited_log(
        logger, level, (task.name, kind), "%s[%s], operation %r: " + what,
        task.name, task_id, about.operation if about else task_id, *args, extra=job_fields(about, task_id=task_id),
    )  # fmt: skip


def requeue_original(task: Any, why: str, error: BaseException) -> NoReturn:
    """Have the original rejected and requeued, because no copy of it could be published.

    With late acknowledgement it stays in the broker and is delivered again at once, which is why this waits a moment; with
    early acknowledgement, which has already let it go, it is lost, and the log says so. Always raises Reject.
    """
    stays = "rejected, so that the broker delivers it again" if task.acks_late else "lost: it is acknowledged already"
    log_delivery(
        task, logging.ERROR, f"not published: {type(error).__name__}", "%s, and no copy could be published: %s. It is %s.",
        why, described(error), stays,
    )  # fmt: skip
    if task.acks_late:
        time.sleep(BRAKE_SECONDS)  # a brake, not a wait for something
    raise Reject(why, requeue=True) from error


def bounded_int(value: Any, most: int) -> int:
    """The number, or 0 if it is none from 0 to ``most``: whoever publishes chooses headers."""
    return value if type(value) is int and 0 <= value <= most else 0


def _longest() -> float:
    try:
        return float(settings.DEFER_MAX_SECONDS)
    except InvalidSetting as error:
        logger.error("%s", error)
        return type(settings).DEFER_MAX_SECONDS
