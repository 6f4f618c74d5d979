"""acks_late: at-least-once.

    published ─▶ received ─▶ started ─▶ effect ─▶ returned ─▶ acked
                    ▲            └──────── killed ─────────┐
                    └─ redelivered: at once (pool process) or after the visibility timeout (main)

Does **not** guarantee:

- That the job runs only once: if the worker is killed after the effect and before the acknowledgement, the job runs again.
- That "at least once" is strict on Redis: see the fetch window in ``late``.
- That a job which kills its worker is retried indefinitely: after ``max_attempts`` it is parked and waits for an operator (see
  ``attempts``).
"""

from __future__ import annotations

from typing import Any

from tasks_demo.core.lifecycle import Point, Subject, reached
from tasks_demo.patterns.attempts import count_attempt
from tasks_demo.patterns.execution import execution
from tasks_demo.patterns.late import LateTask


class AcksLate(LateTask):
    """Promise: at least 1 execution and 1 effect, except in the fetch window on Redis."""

    abstract = True
    pattern = "acks_late"

    def run_delivery(self, subject: Subject, args: Any, kwargs: Any) -> Any:
        """Run the body once its start is recorded; Celery acknowledges when it has returned."""
        with execution(self) as body, count_attempt(self, body):
            reached(Point.STARTED)
            result = body.run(args, kwargs)
            reached(Point.RETURNED)
            return result
