"""Functions that deliver messages in a test and inspect the deliveries."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from celery import current_app, signals
from django.test.utils import override_settings

from tasks_demo.core import lifecycle
from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import LeaseLost
from tasks_demo.core.lifecycle import Point, Reached
from tasks_demo.leases.memory_store import MEMORY, URL
from tasks_demo.patterns.execution import WorkerKilled
from tasks_demo.testing.messages import Kill, Message, hand_over

P = ParamSpec("P")
R = TypeVar("R")

__all__ = ["Delivered", "Deliveries", "State", "WorkerKilled", "isolated"]


class State(StrEnum):
    """How one delivery ended."""

    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"  # see ``Delivered.error``
    SUPPRESSED = "SUPPRESSED"  # the operation was already completed: the body was not run
    DEFERRED = "DEFERRED"  # requeued: deliver it again; see ``Delivered.why``
    PARKED = "PARKED"  # in quarantine
    KILLED = "KILLED"  # its worker was killed, as the test requested
    IGNORED = "IGNORED"  # by Celery's Ignore
    REJECTED = "REJECTED"  # by Celery's Reject


_MEANS = {
    Point.SUPPRESSED: State.SUPPRESSED,
    Point.DEFERRED: State.DEFERRED,
    Point.QUARANTINED: State.PARKED,
}


@dataclass(frozen=True)
class Delivered:
    """The result of delivering a message once, including the retries that the task requested."""

    task_id: str
    state: State
    #: The result of the body, or the result stored with the completed marker.
    result: Any = None
    #: The exception that the body or its pattern raised.
    error: BaseException | None = None
    #: Why the message was suppressed, requeued or parked.
    why: str = ""
    #: How many times the body began.
    executions: int = 0


class Deliveries:
    """The messages of one test and the points that they reached. Created by ``isolated``."""

    def __init__(self) -> None:
        self._messages: dict[str, Message] = {}
        self._reached: list[Reached] = []

    def deliver(
        self,
        task: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        task_id: str | None = None,
        headers: Mapping[str, Any] | None = None,
        kill: Kill | None = None,
    ) -> Delivered:
        """Deliver a new message of this task, as a broker does. Unlike a job from ``delay()``, it can be deferred, counted and
        parked.

        ``kill``: "before_body" or "after_body", where the worker is killed. Errors of the job are returned, not raised. An error
        for which a worker would requeue the message is raised (no Redis, no table, a database that this test may not use).
        """
        message = Message(task.name, args, kwargs or {}, task_id or str(uuid.uuid4()), headers or {})
        return self._deliver(message.through_its_serializer(), redelivered=False, kill=kill)

    def redeliver(self, task_id: str, *, kill: Kill | None = None) -> Delivered:
        """Deliver the last message with this task ID again: same arguments and headers, marked as redelivered.

        Raises LookupError if no task with this ID was delivered in this test.
        """
        if task_id not in self._messages:
            raise LookupError(
                f"No message {task_id!r} was delivered in this test. Delivered were: {sorted(self._messages) or 'none'}. "
                "drain_outbox() delivers the messages in the outbox."
            )
        return self._deliver(self._messages[task_id], redelivered=True, kill=kill)

    def drain_outbox(self, *, future: bool = False, using: str | None = None) -> list[Delivered]:
        """Deliver the due messages of the outbox, and those that their jobs enqueue, until none is due. Returns the deliveries in
        order.

        ``future``: also deliver messages with a countdown or an ETA, immediately. ``using``: the outbox's database alias. Raises
        the error that prevented a row from being delivered, and with CELERY_TASK_EAGER_PROPAGATES the first error of a job.
        """
        from tasks_demo.testing.outbox import drain

        return drain(self, using, future)

    def executions(self, task_id: str) -> int:
        """Return how many times the body of this task began, over all deliveries and retries."""
        return self.points(task_id).count(Point.STARTED)

    def points(self, task_id: str) -> list[Point]:
        """Return the points that this task reached, in order: ``started``, ``suppressed``, ``deferred``, ``returned`` ..."""
        return [event.point for event in self._reached if event.subject.task_id == task_id]

    def skip_time(self, seconds: float) -> None:
        """Age leases and completed markers by this many seconds, so that a killed worker's lease expires.

        Works only for leases in memory. Raises RuntimeError with a Redis, which has its own clock.
        """
        if settings.REDIS_URL != URL:
            raise RuntimeError("skip_time() needs leases in memory; leases in Redis expire by its clock.")
        MEMORY.skip(seconds)

    def _deliver(self, message: Message, *, redelivered: bool, kill: Kill | None = None) -> Delivered:
        before = len(self._reached)
        outcome = hand_over(message, redelivered=redelivered, kill=kill)
        events = [event for event in self._reached[before:] if event.subject.task_id == message.task_id]
        points = [event.point for event in events]
        state, error, result, why = State(outcome.state), None, outcome.result, ""
        for point, means in _MEANS.items():
            if point in points and state is not State.KILLED:
                state = means
                why = str(events[points.index(point)].detail.get("why", ""))
        cause = result.__cause__ if isinstance(result, BaseException) else None
        if state is State.DEFERRED and cause is not None and not isinstance(cause, LeaseLost):
            raise cause  # an infrastructure error: if it were returned, the test would continue as if the message was delivered
        if isinstance(result, BaseException):
            error = result if state is State.FAILURE else None
            result = None
        return Delivered(message.task_id, state, result, error, why, points.count(Point.STARTED))

    def _observe(self, event: Reached) -> None:
        self._reached.append(event)

    def _remember(self, sender: Any = None, task_id: str = "", args: Any = None, kwargs: Any = None, **_: Any) -> None:
        request = sender.request
        self._messages[task_id] = Message(
            sender.name,
            args,
            kwargs,
            task_id,
            request.headers or {},
            request.retries,
            request.callbacks,
            request.errbacks,
        )


#: The active isolated tests, innermost last.
_current: list[Deliveries] = []


@contextmanager
def isolated(redis_url: str = URL) -> Iterator[Deliveries]:
    """Isolate a test: eager mode, private leases and markers, and a record of what is delivered.

    ``redis_url``: memory, or the address of a Redis to test with. Its keys have a prefix of this test and are kept for an hour,
    or LEASE_SECONDS if that is longer.
    """
    ours: dict[str, Any] = {
        "TASKS_DEMO_REDIS_URL": redis_url,
        "TASKS_DEMO_KEY_PREFIX": f"{settings.KEY_PREFIX}test:{uuid.uuid4().hex}:",
    }
    if redis_url != URL:
        ours["TASKS_DEMO_RETENTION_SECONDS"] = max(3600.0, settings.LEASE_SECONDS)
    conf, deliveries = current_app.conf, Deliveries()
    eager = conf.task_always_eager
    with override_settings(**ours):
        prefix = settings.KEY_PREFIX
        conf.task_always_eager = True
        lifecycle.observe(deliveries._observe)
        signals.task_prerun.connect(deliveries._remember, weak=False)
        _current.append(deliveries)
        try:
            yield deliveries
        finally:
            _current.remove(deliveries)
            signals.task_prerun.disconnect(deliveries._remember)
            lifecycle.ignore(deliveries._observe)
            conf.task_always_eager = eager
            MEMORY.forget(prefix)


def _here() -> Deliveries:
    if not _current:
        raise RuntimeError(
            "This works only in an isolated test: mix in DeliveryTestMixin (your own setUp must call super().setUp()), "
            'write pytest_plugins = ["tasks_demo.testing.pytest"] into conftest.py, or use `with isolated():`.'
        )
    return _current[-1]


def _of_this_test(method: Callable[Concatenate[Deliveries, P], R]) -> Callable[P, R]:
    """Return a function that calls this method on the Deliveries of the innermost isolated test."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return method(_here(), *args, **kwargs)

    return call


deliver = _of_this_test(Deliveries.deliver)
redeliver = _of_this_test(Deliveries.redeliver)
drain_outbox = _of_this_test(Deliveries.drain_outbox)
executions = _of_this_test(Deliveries.executions)
skip_time = _of_this_test(Deliveries.skip_time)
