"""Announce points from Celery's signals, for tasks without a pattern, too.

Does **not** prevent the body of a task without a pattern from running when its start cannot be recorded: Celery logs the errors
of signal handlers and continues.
"""

from __future__ import annotations

from typing import Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import Task, current_app, signals, states
from celery.exceptions import Reject

from tasks_demo.core.lifecycle import Point, Subject, observers, reached
from tasks_demo.outbox import completion  # noqa: F401  (connects its receivers)
from tasks_demo.outbox.claims import refused
from tasks_demo.patterns.base import PatternTask
from tasks_demo.patterns.operation_header import HEADER, header, sent_operation
from tasks_demo.patterns.requeue import PARKED, Suppressed, Unfinished
from tasks_demo.patterns.subjects import log_no_key, subject_of

#: Maximum number of characters kept of an error, and of a message that Celery drops.
KEPT, KEPT_BODY = 2000, 1_000_000
#: The message of the Ignore with which Celery's self.replace() ends a task (celery/app/task.py).
REPLACED = "Replaced by new task"
#: Key in a request's delivery_info: its receipt has been announced.
RECEIVED = "tasks_demo_received"


def _task(sender: Any) -> Any:
    return current_app.tasks.get(sender, sender) if isinstance(sender, str) else sender


@signals.after_task_publish.connect(weak=False, dispatch_uid="tasks_demo.published")
def _published(sender: Any = None, headers: Any = None, body: Any = None, **_: Any) -> None:
    if not observers() or not isinstance(headers, dict) or "id" not in headers:
        return
    args, kwargs = (body[0], body[1]) if isinstance(body, (tuple, list)) and len(body) >= 2 else ((), {})
    detail: dict[str, Any] = {"task": sender, "outcome": "ok"}
    if PARKED in headers:
        detail["requeued"] = True  # from the quarantine
    if parent := headers.get("parent_id"):  # published by another job: a continuation, a callback, or in its body
        detail |= {"parent": parent, "root": headers.get("root_id")}
    with_key = headers if HEADER in headers else None
    reached(Point.PUBLISHED, subject_of(_task(sender), args, kwargs, headers["id"], headers=with_key), **detail)


@signals.task_received.connect(weak=False, dispatch_uid="tasks_demo.received")
def _received(request: Any = None, **_: Any) -> None:
    if observers():
        request.delivery_info[RECEIVED] = True  # task_revoked gets the same dictionary
        _compute_once(request)
        subject = subject_of(request.task, (), {}, request.id, request.hostname, request.request_dict)
        _announce_received(request.task, subject, request.delivery_info)


def _compute_once(request: Any) -> None:
    """Add the operation key to the headers of a message without one, so that main and pool process do not each compute it."""
    task, headers = request.task, request.request_dict
    if isinstance(task, PatternTask) and task.operation is not None and sent_operation(headers) is None:
        try:
            headers.update(header(task, request.args, request.kwargs, {}))
        except Exception as error:  # noqa: BLE001  (user code, in the main process's event loop)
            log_no_key(task, request.id, error)


def _announce_received(task: Any, subject: Subject, delivery_info: Any) -> None:
    redelivered = bool((delivery_info or {}).get("redelivered"))
    reached(Point.RECEIVED, subject, task=task.name, redelivered=redelivered, acks_late=bool(task.acks_late))


@signals.task_revoked.connect(weak=False, dispatch_uid="tasks_demo.revoked")
def _revoked(
    sender: Any = None,
    request: Any = None,
    terminated: bool = False,
    signum: Any = None,
    expired: bool = False,
    **_: Any,
) -> None:
    if not observers():
        return
    subject = subject_of(sender, (), {}, request.id, request.hostname or "", request.headers or {})
    if not (request.delivery_info or {}).get(RECEIVED):
        # Celery sends no task_received for a message that it drops at once (celery/worker/strategy.py).
        _announce_received(sender, subject, request.delivery_info)
    if expired:
        reached(Point.EXPIRED, subject, expires=str(request.expires))
    else:
        why = f"its process was killed ({signum})" if terminated else "revoked before it began"
        reached(Point.REVOKED, subject, why=why, terminated=terminated)


@signals.task_prerun.connect(weak=False, dispatch_uid="tasks_demo.started")
def _started(sender: Any = None, task_id: str = "", args: Any = None, kwargs: Any = None, **_: Any) -> None:
    if observers() and not isinstance(sender, PatternTask) and not refused(sender):
        reached(Point.STARTED, subject_of(sender, args, kwargs, task_id, _hostname(sender)))


@signals.task_postrun.connect(weak=False, dispatch_uid="tasks_demo.returned")
def _returned(
    sender: Any = None,
    task_id: str = "",
    args: Any = None,
    kwargs: Any = None,
    retval: Any = None,
    state: Any = None,
    **_: Any,
) -> None:
    if not observers():
        return
    if state == states.SUCCESS:
        if not isinstance(sender, PatternTask):
            reached(Point.RETURNED, subject_of(sender, args, kwargs, task_id, _hostname(sender)))
    elif state in {states.IGNORED, states.REJECTED} and not isinstance(retval, (Unfinished, Suppressed)):
        subject = subject_of(sender, args, kwargs, task_id, _hostname(sender))
        _announce_ignored(subject, retval, acked_before=not sender.acks_late)


def _announce_ignored(subject: Subject, raised: Any, *, acked_before: bool) -> None:
    """Announce that the body raised Ignore or Reject. The main process announces a Reject without requeue (see ``_failed``)."""
    if isinstance(raised, Reject):
        if getattr(raised, "requeue", False) and acked_before:
            # Celery ignores the requeue (celery/worker/request.py reject): there is no message to requeue.
            why = f"acknowledged before it began, so Celery cannot requeue it: {raised}"
            reached(Point.REJECTED, subject, why=why[:KEPT])
        elif getattr(raised, "requeue", False):
            reached(Point.DEFERRED, subject, why=f"the task rejected it: {raised}"[:KEPT], requeued=True)
    elif str(raised) == REPLACED:
        reached(Point.REPLACED, subject)
    else:
        reached(Point.IGNORED, subject, why=str(raised)[:KEPT])


@signals.task_failure.connect(weak=False, dispatch_uid="tasks_demo.failed")
def _failed(
    sender: Any = None,
    task_id: str = "",
    args: Any = None,
    kwargs: Any = None,
    exception: Any = None,
    traceback: Any = None,
    **_: Any,
) -> None:
    if not observers():
        return
    if isinstance(exception, TimeLimitExceeded) and isinstance(traceback, str):
        return  # Celery sends two signals for a hard time limit; Request.on_timeout sends the other
    # The main process reports limits and killed processes without the request; the ledger knows the operation by then.
    here: Any = None if sender.request.id == task_id else {}
    subject = subject_of(sender, args, kwargs, task_id, _hostname(sender), here)
    why = f"{type(exception).__name__}: {exception}"[:KEPT]
    if isinstance(exception, Reject):
        reached(Point.REJECTED, subject, why=why)
    elif not isinstance(exception, (TimeLimitExceeded, WorkerLostError)):
        reached(Point.FAILED, subject, why=why)
    elif isinstance(exception, TimeLimitExceeded) and sender.acks_late and not sender.acks_on_timeout:
        reached(Point.DEFERRED, subject, why=why, requeued=True)
    else:
        reached(Point.FAILED, subject, why=why, abandoned=True)


@signals.task_retry.connect(weak=False, dispatch_uid="tasks_demo.retried")
def _retried(sender: Any = None, request: Any = None, reason: Any = None, **_: Any) -> None:
    if observers():
        subject = subject_of(sender, request.args, request.kwargs, request.id, request.hostname or "")
        reached(Point.RETRIED, subject, why=str(reason)[:KEPT])


@signals.task_unknown.connect(weak=False, dispatch_uid="tasks_demo.unknown")
def _unknown(
    sender: Any = None, message: Any = None, exc: Any = None, name: Any = None, id: Any = None, **_: Any
) -> None:
    _rejected(sender, message, f"no task is registered under the name {name!r}", str(id or ""), str(name or ""))


@signals.task_rejected.connect(weak=False, dispatch_uid="tasks_demo.rejected")
def _invalid(sender: Any = None, message: Any = None, exc: Any = None, **_: Any) -> None:
    headers = getattr(message, "headers", None) or {}
    task_id, task = (str(headers.get(name) or "") for name in ("id", "task"))
    _rejected(sender, message, f"not a task message: {exc!r}", task_id, task)


def _rejected(consumer: Any, message: Any, why: str, task_id: str, task: str) -> None:
    # Celery drops such a message. The event keeps its content, so that it can be published again by hand.
    if observers():
        body = getattr(message, "body", b"")
        text = body.decode("utf-8", "backslashreplace") if isinstance(body, bytes) else str(body)
        text = text.replace("\0", "\\0")
        headers = getattr(message, "headers", None) or {}
        detail = {"why": why[:KEPT], "task": task, "body": text[:KEPT_BODY], "headers": headers}
        if len(text) > KEPT_BODY:
            detail["cut"] = f"the body had {len(text)} characters"
        if len(header_text := str(headers)) > KEPT_BODY:
            detail |= {"headers": header_text[:KEPT_BODY], "cut": f"the headers had {len(header_text)} characters"}
        worker = str(getattr(consumer, "hostname", None) or "")
        subject = Subject(task_id, task_id, "", worker, "", task)
        if task_id:  # Celery sends no task_received for it
            again = bool((getattr(message, "delivery_info", None) or {}).get("redelivered"))
            reached(Point.RECEIVED, subject, task=task, redelivered=again, acks_late=False)
        reached(Point.REJECTED, subject, **detail)


def _hostname(task: Task[Any, Any]) -> str:
    return getattr(task.request, "hostname", None) or ""
