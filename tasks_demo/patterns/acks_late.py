"""acks_late: at-least-once.

What is **not** guaranteed: that the job runs only once; whoever is killed after the effect and before the
acknowledgement has it done again. Nor, on Redis, is "at least once" strict: a main process killed between fetching a
message and recording it as unacknowledged loses it (kombu/transport/redis.py ``_brpop_read``, ``QoS.append``). And a job
that kills its worker ``max_attempts`` times is parked, where it waits for people (see ``quarantine``).

    published ─▶ received ─▶ started ─▶ effect ─▶ returned ─▶ acked
                    ▲            └──── killed anywhere here ────┐
                    └─── child: rejected, at once; main: after the visibility timeout
"""

from __future__ import annotations

from typing import Any

from tasks_demo.core.lifecycle import Point, about, reached
from tasks_demo.patterns.attempts import FromSettings, counted
from tasks_demo.patterns.base import PatternTask
from tasks_demo.patterns.execution import execution


class AcksLate(PatternTask):
    """Promise: at least 1 execution and 1 effect, but for the fetch window on Redis."""

    abstract = True
    pattern = "acks_late"
    acks_late = True
    # Without it Celery *acknowledges* the message of a killed pool process (celery/worker/request.py on_failure).
    reject_on_worker_lost = True
    retry_on_worker_lost = False
    expires = None
    max_attempts = FromSettings()
    requires = {
        "acks_late": (True, "acknowledged early, the job is lost with its worker."),
        "reject_on_worker_lost": (True, "without it Celery acknowledges the job of a killed pool process."),
        "retry_on_worker_lost": (False, "it gives up after max_retries, and the job is lost."),
        "expires": (None, "an expired message is dropped without having run."),
    }

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body, after its start was recorded; Celery acknowledges when it has returned."""
        if self.request.called_directly:
            return self.run_body(*args, **kwargs)
        subject = self.subject(args, kwargs, self.request.id or "", self.request.hostname or "")
        with about(subject), execution(self) as body, counted(self, body):
            reached(Point.STARTED)
            result = body.run(args, kwargs)
            reached(Point.RETURNED)
            return result
