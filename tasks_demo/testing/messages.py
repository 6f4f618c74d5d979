"""One message, and its delivery to a task in this process: as the broker would hand it over, once or again."""

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

#: Where a delivery is killed: when the body would begin, or when it has ended and nobody has taken note of it yet.
Kill = Literal["before_body", "after_body"]


@dataclass(frozen=True)
class Message:
    """What a broker keeps of a job."""

    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    task_id: str
    headers: Mapping[str, Any] = field(default_factory=dict)
    retries: int = 0
    callbacks: Any = None
    errbacks: Any = None

    def through_its_serializer(self) -> Message:
        """As it comes out of the broker. Raises EncodeError for arguments that the serializer cannot carry."""
        task: Any = current_app.tasks[self.task]
        name = task.serializer or current_app.conf.task_serializer
        kind, encoding, data = serialization.dumps([list(self.args), dict(self.kwargs)], serializer=name)
        args, kwargs = serialization.loads(data, kind, encoding, accept=[kind])
        return replace(self, args=args, kwargs=kwargs)


@dataclass(frozen=True)
class Outcome:
    """How a delivery ended, in Celery's words; ``state`` is KILLED for a death."""

    state: str
    result: Any = None


def hand_over(message: Message, *, redelivered: bool, kill: Kill | None = None) -> Outcome:
    """Run the task as a worker does with a message, here and now; a retry that it asks for follows at once."""
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
        # This key is what an eager call lacks: here is a message that can be delivered again.
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
            claims.died(Context(request))
            return Outcome("KILLED")
    result: Any = traced.retval
    if isinstance(result, ExceptionInfo):
        result = result.exception
    if isinstance(result, ExceptionWithTraceback):
        result = result.exc
    again: Any = getattr(result, "sig", None) if isinstance(result, Retry) else None
    if again is not None:
        follows = replace(message, args=again.args, kwargs=again.kwargs, retries=message.retries + 1)
        return hand_over(follows.through_its_serializer(), redelivered=False)
    return Outcome("SUCCESS" if traced.info is None else traced.info.state, result)


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

    task.run = dies  # of this instance; the class keeps its own
    try:
        yield
    finally:
        del task.run
