"""What a test does with messages, and what it may ask afterwards."""

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
    """What became of one delivery."""

    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"  # see ``Delivered.error``
    SUPPRESSED = "SUPPRESSED"  # the work was done before: the body was not run
    DEFERRED = "DEFERRED"  # requeued: deliver it again; ``Delivered.why`` says why
    PARKED = "PARKED"  # in quarantine
    KILLED = "KILLED"  # its worker died, as the test wanted
    IGNORED = "IGNORED"  # by Celery's Ignore
    REJECTED = "REJECTED"  # by Celery's Reject


_MEANS = {
    Point.SUPPRESSED: State.SUPPRESSED,
    Point.DEFERRED: State.DEFERRED,
    Point.QUARANTINED: State.PARKED,
}


@dataclass(frozen=True)
class Delivered:
    """One delivery of a message, with the retries that it asked for."""

    task_id: str
    state: State
    #: Of the body, or the one stored with the completed marker.
    result: Any = None
    #: What the body, or its pattern, raised.
    error: BaseException | None = None
    #: Why it was requeued or parked.
    why: str = ""
    #: How often the body began.
    executions: int = 0


class Deliveries:
    """The messages of one test, and the points that they reached. Made by ``isolated``."""

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
        """Deliver a new message of this task, as a broker does; unlike ``delay()``, it can be deferred, counted and parked.

        ``kill``: "before_body" or "after_body": the worker dies there. Errors of the job are in the answer and not raised; what
        a worker would requeue the message for is raised (no Redis, no table, a database that this test may not use).
        """
        message = Message(task.name, args, kwargs or {}, task_id or str(uuid.uuid4()), headers or {})
        return self._deliver(message.through_its_serializer(), redelivered=False, kill=kill)

    def redeliver(self, task_id: str, *, kill: Kill | None = None) -> Delivered:
        """Deliver the last message with this task ID once more: the same arguments and headers, marked as redelivered.

        Raises LookupError if no task with this ID has run in this test.
        """
        if task_id not in self._messages:
            raise LookupError(
                f"No message {task_id!r} was delivered in this test. Known are {sorted(self._messages) or 'none'}; "
                "what waits in the outbox is delivered by drain_outbox()."
            )
        return self._deliver(self._messages[task_id], redelivered=True, kill=kill)

    def drain_outbox(self, *, future: bool = False, using: str | None = None) -> list[Delivered]:
        """Deliver what is due in the outbox, and what that enqueues, until nothing is; returns it in order.

        ``future``: also what has a countdown or an eta, at once. ``using``: the outbox's database alias. Raises the first
        error of a job if CELERY_TASK_EAGER_PROPAGATES, and what keeps a row from being delivered.
        """
        from tasks_demo.testing.outbox import drain

        return drain(self, using, future)

    def executions(self, task_id: str) -> int:
        """How often the body of this task began, in all deliveries and retries."""
        return self.points(task_id).count(Point.STARTED)

    def points(self, task_id: str) -> list[Point]:
        """All that happened to this task, in order: ``started``, ``suppressed``, ``deferred``, ``returned`` ..."""
        return [event.point for event in self._reached if event.subject.task_id == task_id]

    def skip_time(self, seconds: float) -> None:
        """Let leases and markers age by this much at once: what a killed worker held is free after its lease.

        Only leases in memory; a Redis has a clock of its own, and this raises RuntimeError.
        """
        if settings.REDIS_URL != URL:
            raise RuntimeError("skip_time() needs leases in memory; those of a Redis end by its clock.")
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
            raise cause  # not the job's doing: a test would go on as if it had been delivered
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


#: The innermost last.
_current: list[Deliveries] = []


@contextmanager
def isolated(redis_url: str = URL) -> Iterator[Deliveries]:
    """What every test needs: eager mode, leases and markers that nobody else sees, and a record of what is delivered.

    ``redis_url``: the address of a Redis, for those who want to test with it; the keys have a prefix of their own, for an hour.
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
            "This works inside an isolated test only: mix in DeliveryTestMixin (a setUp of your own calls super().setUp()), "
            'write pytest_plugins = ["tasks_demo.testing.pytest"] into conftest.py, or use `with isolated():`.'
        )
    return _current[-1]


def _of_this_test(method: Callable[Concatenate[Deliveries, P], R]) -> Callable[P, R]:
    """The same method of the innermost isolated test's Deliveries, as a function."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return method(_here(), *args, **kwargs)

    return call


deliver = _of_this_test(Deliveries.deliver)
redeliver = _of_this_test(Deliveries.redeliver)
drain_outbox = _of_this_test(Deliveries.drain_outbox)
executions = _of_this_test(Deliveries.executions)
skip_time = _of_this_test(Deliveries.skip_time)
