"""Points that Celery itself knows, fed from its signals; so tasks that use no pattern of ours are seen too.

Celery catches and logs what a signal handler raises. For tasks without a pattern the ledger can therefore not
keep a body from running when its start could not be recorded; for patterns it can.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import Task, current_app, signals

from tasks_demo.delivery.base import PatternTask
from tasks_demo.lifecycle import Point, Subject, observers, reached

logger = logging.getLogger(__name__)
#: How much of an error is kept as evidence, and how much of a message that Celery drops, in characters.
KEPT, KEPT_BODY = 2000, 1_000_000


def subject_of(task: Any, args: Any, kwargs: Any, task_id: str, worker: str = "") -> Subject:
    """The subject of any task, with a pattern or without. Never raises: hostile arguments give the task ID as operation."""
    if isinstance(task, PatternTask):
        try:
            return task.subject(args or (), kwargs or {}, task_id, worker)
        except Exception as error:  # noqa: BLE001  (the operation function is anybody's, and this may be main's event loop)
            logger.warning("No operation key for %s[%s]: %s", task.name, task_id, error)
            return Subject(task_id, task_id, task.pattern, worker, task.books)
    return Subject(task_id, task_id, "", worker)


def _task(sender: Any) -> Any:
    return current_app.tasks.get(sender) if isinstance(sender, str) else sender


@signals.after_task_publish.connect(weak=False, dispatch_uid="tasks_demo.published")
def _published(sender: Any = None, headers: Any = None, body: Any = None, **_: Any) -> None:
    if not observers() or not isinstance(headers, dict) or "id" not in headers:
        return
    args, kwargs = (body[0], body[1]) if isinstance(body, (tuple, list)) and len(body) >= 2 else ((), {})
    reached(Point.PUBLISHED, subject_of(_task(sender), args, kwargs, headers["id"]), task=sender, outcome="ok")


@signals.task_received.connect(weak=False, dispatch_uid="tasks_demo.received")
def _received(request: Any = None, **_: Any) -> None:
    if observers():
        subject = subject_of(request.task, request.args, request.kwargs, request.id, request.hostname)
        redelivered = bool((request.delivery_info or {}).get("redelivered"))
        reached(Point.RECEIVED, subject, task=request.name, redelivered=redelivered)


@signals.task_prerun.connect(weak=False, dispatch_uid="tasks_demo.started")
def _started(sender: Any = None, task_id: str = "", args: Any = None, kwargs: Any = None, **_: Any) -> None:
    if observers() and not isinstance(sender, PatternTask):
        reached(Point.STARTED, subject_of(sender, args, kwargs, task_id, _hostname(sender)))


@signals.task_postrun.connect(weak=False, dispatch_uid="tasks_demo.returned")
def _returned(
    sender: Any = None, task_id: str = "", args: Any = None, kwargs: Any = None, state: Any = None, **_: Any
) -> None:
    if observers() and not isinstance(sender, PatternTask) and state == "SUCCESS":
        reached(Point.RETURNED, subject_of(sender, args, kwargs, task_id, _hostname(sender)))


@signals.task_failure.connect(weak=False, dispatch_uid="tasks_demo.failed")
def _failed(
    sender: Any = None, task_id: str = "", args: Any = None, kwargs: Any = None, exception: Any = None, **_: Any
) -> None:
    if observers():
        why = f"{type(exception).__name__}: {exception}"[:KEPT]
        reached(Point.FAILED, subject_of(sender, args, kwargs, task_id, _hostname(sender)), why=why)


@signals.task_retry.connect(weak=False, dispatch_uid="tasks_demo.retried")
def _retried(sender: Any = None, request: Any = None, reason: Any = None, **_: Any) -> None:
    if observers():
        subject = subject_of(sender, request.args, request.kwargs, request.id, request.hostname or "")
        reached(Point.RETRIED, subject, why=str(reason)[:KEPT])


@signals.task_unknown.connect(weak=False, dispatch_uid="tasks_demo.unknown")
def _unknown(message: Any = None, exc: Any = None, name: Any = None, id: Any = None, **_: Any) -> None:
    _rejected(message, f"no task is registered under the name {name!r}", str(id or ""))


@signals.task_rejected.connect(weak=False, dispatch_uid="tasks_demo.rejected")
def _invalid(message: Any = None, exc: Any = None, **_: Any) -> None:
    _rejected(message, f"not a task message: {exc!r}", "")


def _rejected(message: Any, why: str, task_id: str) -> None:
    # Celery drops such a message. It is kept here, so that it can be published again by hand.
    if observers():
        body = getattr(message, "body", b"")
        text = body.decode("utf-8", "backslashreplace") if isinstance(body, bytes) else str(body)
        text = text.replace("\0", "\\0")
        detail = {"why": why[:KEPT], "body": text[:KEPT_BODY], "headers": getattr(message, "headers", None) or {}}
        if len(text) > KEPT_BODY:
            detail["cut"] = f"the body had {len(text)} characters"
        reached(Point.REJECTED, Subject(task_id, task_id, ""), **detail)


def _hostname(task: Task[Any, Any]) -> str:
    return getattr(task.request, "hostname", None) or ""
