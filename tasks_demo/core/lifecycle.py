"""The one seam between the patterns and whoever watches them.

A pattern announces each point of a task's life with :func:`reached`; observers (the ledger, the lab)
are told in the order in which they were registered. With no observer armed a point costs one
attribute look-up and one truth test.

What an observer may do to a job depends on the point. At those that must precede the body (``MUST_PRECEDE``) its error, of
whatever class, becomes StartNotRecorded: the body does not run, and the pattern requeues the delivery. At every other point
its error is logged and counted, and the job goes on: what has begun or is done must not fail for want of a record.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from tasks_demo.core.exceptions import DeliveryError, StartNotRecorded
from tasks_demo.core.limited_log import limited_log
from tasks_demo.core.points import BY_MAIN, FOLLOWS, IN_THE_BODY, MUST_PRECEDE, Point

__all__ = [
    "BY_MAIN", "FOLLOWS", "IN_THE_BODY", "MUST_PRECEDE", "Point", "Reached", "Subject", "about", "current", "ignore",
    "job_fields", "observe", "observers", "reached",
]  # fmt: skip
logger = logging.getLogger(__name__)
#: How often an observer of this process failed at a point that must not stop a job.
unobserved: Counter[Point] = Counter()


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose life it is: one delivery of one task."""

    task_id: str
    operation: str
    pattern: str
    worker: str = ""
    books: str = ""  # who outside counts the effects of this task; empty: nobody
    task: str = ""  # the name under which the task is registered
    needs_ledger: bool = False  # its body does not run unless its start is recorded
    ledger: float = 1.0  # the share of its task IDs that are recorded, as the task declares it
    fence: int | None = None  # the token of its lease, while it has one


@dataclass(frozen=True, slots=True)
class Reached:
    """One point reached: what observers are given. ``at`` is seconds since the epoch."""

    point: Point
    subject: Subject
    at: float
    detail: dict[str, Any] = field(default_factory=dict)


Observer = Callable[[Reached], None]

_observers: tuple[Observer, ...] = ()
_current: ContextVar[Subject | None] = ContextVar("tasks_demo_subject", default=None)


def observe(observer: Observer) -> None:
    """Register an observer; a second registration of the same one is ignored."""
    global _observers
    if observer not in _observers:
        _observers = (*_observers, observer)


def ignore(observer: Observer) -> None:
    """Remove an observer; one that is not registered is ignored."""
    global _observers
    _observers = tuple(known for known in _observers if known != observer)


def observers() -> tuple[Observer, ...]:
    """The observers armed now, in the order in which they are told."""
    return _observers


@contextmanager
def about(subject: Subject) -> Iterator[Subject]:
    """Make ``subject`` the one that :func:`reached` speaks about when it is not told."""
    token = _current.set(subject)
    try:
        yield subject
    finally:
        _current.reset(token)


def current() -> Subject | None:
    """The delivery being executed here, or None outside one."""
    return _current.get()


def job_fields(
    subject: Subject | None = None, *, task_id: str = "", operation: str = "", fence: int | None = None
) -> dict[str, Any]:
    """The structured fields of a log line about a job, for its ``extra``: ``task_id``, ``task_name``, ``operation``,
    ``pattern``, ``fence``, as far as they are known.

    They are those of ``subject``, or of the delivery being executed here unless ``task_id`` names another job.
    """
    if subject is None and (here := _current.get()) is not None and task_id in ("", here.task_id):
        subject = here
    known: dict[str, Any] = {"task_id": task_id, "operation": operation, "fence": fence}
    if subject is not None:
        known = {
            "task_id": subject.task_id,
            "task_name": subject.task,
            "operation": operation or subject.operation,
            "pattern": subject.pattern,
            "fence": subject.fence if fence is None else fence,
        }
    return {name: value for name, value in known.items() if value not in ("", None)}


def reached(point: Point, subject: Subject | None = None, **detail: Any) -> None:
    """Announce that the current delivery (or ``subject``) reached ``point``.

    ``detail`` must be JSON-serialisable. Does nothing outside a delivery, so that a task body can
    also be called as an ordinary function. Raises StartNotRecorded at the points of ``MUST_PRECEDE`` if an observer fails,
    and at none of the others; what asks the process to end (SystemExit and its like) passes always.
    """
    if not _observers:
        return
    if subject is None:
        subject = _current.get()
        if subject is None:
            return
    event = Reached(point, subject, time.time(), detail)
    for observer in _observers:
        try:
            observer(event)
        except Exception as error:
            if point in MUST_PRECEDE:
                raise StartNotRecorded(
                    f"The body was not run and its message is requeued: {_name(observer)} failed at {point}: {described(error)}"
                ) from error
            if point in IN_THE_BODY and isinstance(error, SoftTimeLimitExceeded):
                raise
            _report(observer, event, error)


def described(error: BaseException) -> str:
    """The error as one line, whatever its ``__str__`` does: the message of one of ours, else class and message."""
    try:
        text = " ".join(str(error).split()).rstrip(".")
    except Exception:  # noqa: BLE001
        text = "(its message cannot be shown)"
    return text if isinstance(error, DeliveryError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _report(observer: Observer, event: Reached, error: Exception) -> None:
    unobserved[event.point] += 1
    limited_log(
        logger, logging.ERROR, (_name(observer), str(event.point), type(error).__name__),
        "[%s]: %s failed at %s and missed it (%s). The job goes on.",
        event.subject.task_id, _name(observer), event.point, described(error),
        exc_info=None if isinstance(error, DeliveryError) else error, extra=job_fields(event.subject),
    )  # fmt: skip


def _name(observer: Observer) -> str:
    return getattr(observer, "__qualname__", "") or type(observer).__qualname__
