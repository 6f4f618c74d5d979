"""What the checks look at: a Celery app's configuration and its tasks. Nothing is connected to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tasks_demo.delivery import ClaimFirst, DedupLock, Inbox
from tasks_demo.delivery.base import PatternTask

#: Seconds after which the broker hands out an unacknowledged message again, where it does so by the clock: the defaults of
#: kombu/transport/{redis,SQS/__init__,pgmq}.py. RabbitMQ does it when the connection is gone, so it is not here.
VISIBILITY_TIMEOUT = {"redis": 3600.0, "rediss": 3600.0, "sentinel": 3600.0, "sqs": 1800.0, "pgmq": 1800.0}
#: Pools without child processes: there, a worker dies as a whole or not at all.
CHILDLESS_POOLS = ("solo", "threads", "gevent", "eventlet")
#: Celery's own default of ``default_retry_delay``: a task that has it has declared nothing.
UNDECLARED_RETRY_DELAY = 180


@dataclass(frozen=True)
class Setup:
    """One app and the tasks to judge. Properties may raise for settings that cannot be read."""

    app: Any
    tasks: tuple[Any, ...]

    @classmethod
    def of(cls, app: Any) -> Setup:
        """The app's tasks without those that Celery registers itself. Raises what building a task raises."""
        return cls(app, tuple(task for name, task in sorted(app.tasks.items()) if not name.startswith("celery.")))

    @property
    def conf(self) -> Any:
        return self.app.conf

    @cached_property
    def late(self) -> tuple[Any, ...]:
        """The tasks that acknowledge after the body."""
        return tuple(task for task in self.tasks if task.acks_late)

    @cached_property
    def early(self) -> tuple[Any, ...]:
        """The tasks that acknowledge before the body."""
        return tuple(task for task in self.tasks if not task.acks_late)

    @cached_property
    def locked(self) -> tuple[Any, ...]:
        """The tasks under our lease."""
        return tuple(task for task in self.tasks if isinstance(task, DedupLock))

    @cached_property
    def remembering(self) -> tuple[Any, ...]:
        """The tasks whose promise lasts as long as what they remember of an operation."""
        return tuple(task for task in self.tasks if isinstance(task, DedupLock | ClaimFirst | Inbox))

    @cached_property
    def transport(self) -> str:
        """The broker's scheme as kombu knows it, in small letters."""
        url = self.conf.broker_read_url or ""
        first = url[0] if isinstance(url, (list, tuple)) else str(url).partition(";")[0]
        scheme, found, _ = str(first).partition("://")
        return (scheme.partition("+")[0] if found else self.conf.broker_transport or "amqp").lower()

    @cached_property
    def visibility_timeout(self) -> float | None:
        """Seconds, or None where the broker does not redeliver by the clock."""
        options = self.conf.broker_transport_options or {}
        default = VISIBILITY_TIMEOUT.get(self.transport)
        if default is None or not options.get("ack_emulation", True):
            return None
        given = options.get("visibility_timeout")
        return default if given in (None, "") else float(given)

    @cached_property
    def has_children(self) -> bool:
        """Whether the worker's pool runs tasks in child processes."""
        return not any(name in str(self.conf.worker_pool) for name in CHILDLESS_POOLS)

    @cached_property
    def broker_counts_deliveries(self) -> bool:
        """Whether every declared queue has RabbitMQ's own cap on redeliveries."""
        queues = self.conf.task_queues or ()
        declared = list(queues.values()) if isinstance(queues, Mapping) else list(queues)
        return bool(declared) and all("x-delivery-limit" in (_queue_arguments(queue) or {}) for queue in declared)


def _queue_arguments(queue: Any) -> Any:
    return queue.get("queue_arguments") if isinstance(queue, Mapping) else getattr(queue, "queue_arguments", None)


def hard_limit(task: Any) -> float | None:
    """Seconds after which the pool kills the body; None: never. 0 is never too (billiard/pool.py)."""
    return float(task.time_limit) if task.time_limit else None


def soft_limit(task: Any) -> float | None:
    """Seconds after which the body is told to stop, or else is killed; None: never."""
    limits = [float(limit) for limit in (task.soft_time_limit, task.time_limit) if limit]
    return min(limits, default=None)


def is_quarantined(task: Any) -> bool:
    """Whether a job that kills its workers is parked after a number of attempts."""
    return isinstance(task, PatternTask) and getattr(task, "max_attempts", None) is not None


def most_retries(task: Any) -> int | None:
    """How often the task may retry; None: without end."""
    retries: int | None = (getattr(task, "retry_kwargs", None) or {}).get("max_retries", task.max_retries)
    return retries


def retry_delay(task: Any) -> tuple[float, str]:
    """The longest declared wait before a retry, seconds, and where it is declared. A body may ask for any other."""
    delays: list[tuple[float, str]] = []
    retries = most_retries(task)
    automatic = bool(getattr(task, "autoretry_for", ())) and retries != 0
    backoff = float(getattr(task, "retry_backoff", False) or 0)
    if automatic and backoff:
        declared = getattr(task, "retry_backoff_max", None)
        # Nobody wrote the 600 s of celery/app/autoretry.py: then what the retries can reach counts.
        reachable = 600.0 if retries is None else min(600.0, max(1, int(backoff)) * 2.0 ** min(retries - 1, 20))
        delays.append((reachable if declared is None else float(declared), "retry_backoff_max"))
    asked = (getattr(task, "retry_kwargs", None) or {}).get("countdown")
    if automatic and asked is not None and not backoff:
        delays.append((float(asked), "retry_kwargs"))
    used = (automatic and not backoff and asked is None) or (task.retry_on_worker_lost and retries != 0)
    delay = task.default_retry_delay
    if delay and (used or delay != UNDECLARED_RETRY_DELAY):
        delays.append((float(delay), "default_retry_delay"))
    return max(delays, default=(0.0, ""))
