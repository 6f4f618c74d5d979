"""Early acknowledgement: what ``acks_early`` and ``claim_first`` share.

Celery acknowledges the message when a pool process accepts it, before the body runs. If the worker dies after that, the job is
lost. Nothing may start the body a second time: neither Celery's retries nor a redelivered message.
"""

from __future__ import annotations

from typing import Any, NoReturn

from tasks_demo.core.exceptions import ContradictoryDeclaration
from tasks_demo.patterns.base import PatternTask


class EarlyTask(PatternTask):
    """Abstract base of the patterns that acknowledge before the body."""

    abstract = True
    acks_late = False
    reject_on_worker_lost = False
    retry_on_worker_lost = False
    autoretry_for = ()
    requires = {
        "acks_late": (False, "this pattern acknowledges before the body runs."),
        "reject_on_worker_lost": (False, "the message is already acknowledged when the worker is lost."),
        "retry_on_worker_lost": (False, "publishing a started job again causes a second execution."),
        "autoretry_for": (False, "a retry is a second execution, which at-most-once excludes."),
    }

    def retry(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: a retry from inside the body is a second execution."""
        raise ContradictoryDeclaration(
            f"{self.name}: self.retry() contradicts the pattern {self.pattern}: a retry is a second execution. Nothing was "
            "published. Let the error fail the job, or declare the task with AcksLate, DedupLock or Inbox."
        )
