"""Announce the points of a delivery to observers (the ledger, metrics, the lab).

A pattern announces each point with :func:`reached`, which calls the observers in the order of their registration. Without
observers a point costs one attribute lookup and one truth test.

At the points that must precede the body (``MUST_PRECEDE``) any error of an observer becomes StartNotRecorded: the body does not
run, and the pattern requeues the delivery. At every other point the error is logged and counted, and the job continues: a
missing record must not fail a job that has started or ended.
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
    "BY_MAIN", "FOLLOWS", "IN_THE_BODY", "MUST_PRECEDE", "Point", "Reached", "Subject", "about", "announce", "current",
    "held_back", "ignore", "job_fields", "observe", "observers", "reached",
]  # fmt: skip
logger = logging.getLogger(__name__)
#: Observer failures in this process, at points where a failure must not stop the job.
unobserved: Counter[Point] = Counter()


@dataclass(frozen=True, slots=True)
class Subject:
    """One delivery of one task: what a point is about."""

    task_id: str
    operation: str
    pattern: str
    worker: str = ""
    books: str = ""  # the registered books that count the effects of this task; empty: none
    task: str = ""  # the name under which the task is registered
    needs_ledger: bool = False  # the body does not run unless its start is recorded
    ledger: float = 1.0  # the share of task IDs to record, as the task declares it
    fence: int | None = None  # the fencing token of its lease, while it has one


@dataclass(frozen=True, slots=True)
class Reached:
    """The argument of observers: one point of one delivery. ``at`` is seconds since the epoch."""

    point: Point
    subject: Subject
    at: float
    detail: dict[str, Any] = field(default_factory=dict)


Observer = Callable[[Reached], None]

_observers: tuple[Observer, ...] = ()
_current: ContextVar[Subject | None] = ContextVar("tasks_demo_subject", default=None)
_held_back: ContextVar[list[Reached] | None] = ContextVar("tasks_demo_held_back", default=None)


def observe(observer: Observer) -> None:
    """Register an observer; a second registration has no effect."""
    global _observers
    if observer not in _observers:
        _observers = (*_observers, observer)


def ignore(observer: Observer) -> None:
    """Remove an observer, if it is registered."""
    global _observers
    _observers = tuple(known for known in _observers if known != observer)


def observers() -> tuple[Observer, ...]:
    """Return the registered observers, in the order in which they are called."""
    return _observers


@contextmanager
def about(subject: Subject) -> Iterator[Subject]:
    """Make ``subject`` the default of :func:`reached` in this context."""
    token = _current.set(subject)
    try:
        yield subject
    finally:
        _current.reset(token)


def current() -> Subject | None:
    """Return the delivery being executed in this context, or None outside one."""
    return _current.get()


def job_fields(
    subject: Subject | None = None, *, task_id: str = "", operation: str = "", fence: int | None = None
) -> dict[str, Any]:
    """Return the ``extra`` of a log line about a job: ``task_id``, ``task_name``, ``operation``, ``pattern``, ``fence``, as far
    as they are known.

    They describe ``subject``, or else the delivery being executed in this context unless ``task_id`` names another job.
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

    ``detail`` must be JSON-serialisable. Does nothing outside a delivery, so that a task body can also be called as a function.
    Raises StartNotRecorded if an observer fails at a point of ``MUST_PRECEDE``; at other points errors are logged. SystemExit
    and other BaseExceptions always propagate.
    """
    if not _observers:
        return
    if subject is None:
        subject = _current.get()
        if subject is None:
            return
    event = Reached(point, subject, time.time(), detail)
    if point is Point.PUBLISHED and (held := _held_back.get()) is not None:
        held.append(event)
    else:
        announce(event)


@contextmanager
def held_back() -> Iterator[list[Reached]]:
    """Collect what is published in this context. The caller announces it when the broker has confirmed it."""
    held: list[Reached] = []
    token = _held_back.set(held)
    try:
        yield held
    finally:
        _held_back.reset(token)


def announce(event: Reached) -> None:
    """Call the observers with this event. Raises as ``reached`` does."""
    for observer in _observers:
        try:
            observer(event)
        except Exception as error:
            if event.point in MUST_PRECEDE:
                raise StartNotRecorded(
                    f"The body was not run and its message is requeued: {_name(observer)} failed at {event.point}: "
                    f"{described(error)}"
                ) from error
            if event.point in IN_THE_BODY and isinstance(error, SoftTimeLimitExceeded):
                raise
            _report(observer, event, error)


def described(error: BaseException) -> str:
    """Return the error as one line, even if its ``__str__`` fails: the message of a DeliveryError, else class and message."""
    try:
        text = " ".join(str(error).split()).rstrip(".")
    except Exception:  # noqa: BLE001
        text = "(its message cannot be shown)"
    return text if isinstance(error, DeliveryError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _report(observer: Observer, event: Reached, error: Exception) -> None:
    unobserved[event.point] += 1
    limited_log(
        logger, logging.ERROR, (_name(observer), str(event.point), type(error).__name__),
        "[%s]: %s failed at %s and did not record it (%s). The job continues.",
        event.subject.task_id, _name(observer), event.point, described(error),
        exc_info=None if isinstance(error, DeliveryError) else error, extra=job_fields(event.subject),
    )  # fmt: skip


def _name(observer: Observer) -> str:
    return getattr(observer, "__qualname__", "") or type(observer).__qualname__
