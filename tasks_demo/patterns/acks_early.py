"""acks_early: at-most-once, as Celery ships it.

    published ─▶ received ─▶ [accepted by the pool ─▶ acked] ─▶ started ─▶ effect ─▶ returned
                                        └── concurrently ──┘

Does **not** guarantee:

- That the job runs at all: the message is acknowledged when a pool process accepts it, so the job is lost if the worker dies
  after that.
- That "at most once" is strict: the body may start before the acknowledgement is sent. If the main process is killed in between,
  the broker delivers the message again (celery/concurrency/prefork.py ``synack=False``, celery/worker/request.py
  ``on_accepted``). The same follows if a Redis that takes no writes refuses the acknowledgement. For that guarantee use
  ``claim_first``.
"""

from __future__ import annotations

from typing import Any

from tasks_demo.core.lifecycle import Point, Subject, reached
from tasks_demo.patterns.early import EarlyTask
from tasks_demo.patterns.execution import execution


class AcksEarly(EarlyTask):
    """Promise: at most 1 execution and 1 effect, except in the acknowledgement window."""

    abstract = True
    pattern = "acks_early"

    def run_delivery(self, subject: Subject, args: Any, kwargs: Any) -> Any:
        """Run the body once its start is recorded."""
        # A delivery deferred here has not run its body: the new copy is not a second execution.
        with execution(self) as body:
            reached(Point.STARTED)
            result = body.run(args, kwargs)
            reached(Point.RETURNED)
            return result
