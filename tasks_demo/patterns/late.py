"""Late acknowledgement: what ``acks_late``, ``dedup_lock`` and ``inbox`` share.

The worker acknowledges the message when the body has returned or failed. If the worker dies before that, the broker delivers the
message again: at once if a pool process died; after the visibility timeout (Redis) or the end of the connection (RabbitMQ) if the
whole worker did. A job that kills its worker ``max_attempts`` times is parked (see ``attempts``).

Does **not** guarantee, on Redis, that every message is redelivered: one is lost if the main process is killed between popping it
and recording it as unacknowledged, the "fetch window" (kombu/transport/redis.py ``_brpop_read``, ``QoS.append``).
"""

from __future__ import annotations

from tasks_demo.patterns.attempts import MaxAttemptsSetting
from tasks_demo.patterns.base import PatternTask


class LateTask(PatternTask):
    """Abstract base of the patterns that acknowledge after the body."""

    abstract = True
    acks_late = True
    # Without it Celery *acknowledges* the message of a killed pool process (celery/worker/request.py on_failure).
    reject_on_worker_lost = True
    retry_on_worker_lost = False
    expires = None
    max_attempts = MaxAttemptsSetting()
    requires = {
        "acks_late": (True, "acknowledged early, the job is lost with its worker."),
        "reject_on_worker_lost": (True, "without it Celery acknowledges the job of a killed pool process."),
        "retry_on_worker_lost": (False, "it gives up after max_retries, and the job is lost."),
        "expires": (None, "an expired message is dropped without having run."),
    }
