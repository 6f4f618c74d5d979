"""A message, and its delivery or redelivery to a task in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from socket import gethostname
from typing import Any, Literal

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback  # type: ignore[attr-defined]
from celery import current_app
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.exceptions import Retry
from celery.result import denied_join_result
from kombu import serialization

from tasks_demo.outbox import claims
from tasks_demo.patterns.execution import WorkerKilled

#: Where a delivery is killed: before the body begins, or after the body has ended and before its end is recorded.
Kill = Literal["before_body", "after_body"]


@dataclass(frozen=True)
class Message:
    """The parts of a job that a broker keeps."""

    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    task_id: str
    headers: Mapping[str, Any] = field(default_factory=dict)
    retries: int = 0
    callbacks: Any = None
    errbacks: Any = None

    def through_its_serializer(self) -> Message:
        """Return the message as it would arrive from a broker. Raises EncodeError for arguments that cannot be serialized."""
        task: Any = current_app.tasks[self.task]
        name = task.serializer or current_app.conf.task_serializer
        kind, encoding, data = serialization.dumps([list(self.args), dict(self.kwargs)], serializer=name)
        args, kwargs = serialization.loads(data, kind, encoding, accept=[kind])
        return replace(self, args=args, kwargs=kwargs)


@dataclass(frozen=True)
class DeliveryEnd:
    """How a delivery ended. ``state``: Celery's state, or KILLED for a killed worker."""

    state: str
    result: Any = None


def hand_over(message: Message, *, redelivered: bool, kill: Kill | None = None) -> DeliveryEnd:
    """Run the task synchronously, as a worker runs it for a message. A retry runs immediately, without its countdown."""
    task: Any = current_app.tasks[message.task]
    claims.hook(type(task))  # as a worker does when it starts
    request = {
        "id": message.task_id,
        "task": message.task,
        "root_id": message.task_id,
        "retries": message.retries,
        "is_eager": True,
        "hostname": gethostname(),
        "headers": dict(message.headers),
        "callbacks": message.callbacks,
        "errbacks": message.errbacks,
        # Eager calls have no "redelivered"; its presence shows the patterns that there is a message to redeliver.
        "delivery_info": {
            "is_eager": True,
            "exchange": "",
            "routing_key": "",
            "priority": None,
            "redelivered": redelivered,
        },
    }
    with _killed(task, kill), denied_join_result():
        tracer = build_tracer(task.name, task, eager=True, propagate=False, app=current_app)
        try:
            traced = tracer(message.task_id, list(message.args), dict(message.kwargs), request)
        except WorkerKilled:
            claims.record_simulated_death(Context(request))
            return DeliveryEnd("KILLED")
    result: Any = traced.retval
    if isinstance(result, ExceptionInfo):
        result = result.exception
    if isinstance(result, ExceptionWithTraceback):
        result = result.exc
    again: Any = getattr(result, "sig", None) if isinstance(result, Retry) else None
    if again is not None:
        follows = replace(message, args=again.args, kwargs=again.kwargs, retries=message.retries + 1)
        return hand_over(follows.through_its_serializer(), redelivered=False)
    return DeliveryEnd("SUCCESS" if traced.info is None else traced.info.state, result)


@contextmanager
def _killed(task: Any, where: Kill | None) -> Iterator[None]:
    if where is None:
        yield
        return
    if where not in ("before_body", "after_body"):
        raise ValueError(f"kill={where!r}: write 'before_body' or 'after_body'.")
    run = task.run

    def dies(*args: Any, **kwargs: Any) -> None:
        if where == "after_body":
            run(*args, **kwargs)
        raise WorkerKilled

    task.run = dies  # set on the instance; the class keeps its own
    try:
        yield
    finally:
        del task.run
