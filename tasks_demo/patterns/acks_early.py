"""acks_early: at-most-once, as Celery ships it.

What is **not** guaranteed: that the job runs at all. The message is acknowledged when a pool process accepts it,
so whatever dies after that takes the job with it. Nor is "at most once" strict: between the start of the body
and the acknowledgement lies a window, and a main process killed in it lets the broker deliver the message again
(celery/concurrency/prefork.py ``synack=False``, celery/worker/request.py ``on_accepted``).

    published ─▶ received ─▶ [accepted by the pool ─▶ acked] ─▶ started ─▶ effect ─▶ returned
                                        └──── side by side ────┘
"""

from __future__ import annotations

from typing import Any, NoReturn

from tasks_demo.core.exceptions import ContradictoryDeclaration
from tasks_demo.core.lifecycle import Point, about, reached
from tasks_demo.patterns.base import PatternTask
from tasks_demo.patterns.execution import execution


class AcksEarly(PatternTask):
    """Promise: at most 1 execution and 1 effect, but for the acknowledge window."""

    abstract = True
    pattern = "acks_early"
    acks_late = False
    reject_on_worker_lost = False
    retry_on_worker_lost = False
    autoretry_for = ()
    requires = {
        "acks_late": (False, "it acknowledges before the body runs."),
        "reject_on_worker_lost": (False, "the message is already acknowledged when the worker is lost."),
        "retry_on_worker_lost": (False, "publishing a started job again makes a second execution."),
        "autoretry_for": (False, "a retry is a second execution; at-most-once has no second."),
    }  # fmt: skip

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body once, after its start was recorded."""
        if self.request.called_directly:
            return self.run_body(*args, **kwargs)
        subject = self.subject(args, kwargs, self.request.id or "", self.request.hostname or "")
        # If it is requeued the body has not run: a new copy is not a second execution.
        with about(subject), execution(self) as body:
            reached(Point.STARTED)
            result = body.run(args, kwargs)
            reached(Point.RETURNED)
            return result

    def retry(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: a retry from inside the body is a second execution."""
        raise ContradictoryDeclaration(
            f"{self.name}: self.retry() contradicts the pattern acks_early: a retry is a second execution. "
            "Let the error be seen, or declare the task with AcksLate or DedupLock."
        )
