"""A worker bootstep for any Celery app: ``app.steps["worker"].add(NoticeChildDeath)``."""

from __future__ import annotations

from typing import Any

from celery import bootsteps

__all__ = ["NoticeChildDeath"]


class NoticeChildDeath(bootsteps.StartStopStep):
    """Notices that a pool process was killed within a quarter of a second: it has the pool look for dead processes that often.

    Without it Celery sometimes looks only at the pool's 5 s timer (celery/concurrency/asynpool.py ``timers``); until then the
    message of the dead process is not requeued. What happens then is in ``hooks.request``.
    """

    requires = ("celery.worker.components:Pool", "celery.worker.components:Hub")
    #: Seconds between two checks; in each, billiard's pool calls waitpid once per process.
    interval = 0.25

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        """Called by Celery once the event loop exists. Pools without child processes have no ``maintain_pool``."""
        maintain = getattr(worker.pool, "maintain_pool", None)
        if maintain is not None:
            hub.call_repeatedly(self.interval, maintain)
