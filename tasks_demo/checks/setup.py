"""The input of the checks: a Celery app's configuration and its tasks. Does not connect to anything."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from celery import concurrency
from celery.concurrency.prefork import TaskPool as Prefork
from django.db import router
from kombu.utils.imports import symbol_by_name

from tasks_demo.checks.queues import queue_of, queues_of
from tasks_demo.core.conf import settings
from tasks_demo.outbox.enqueue import Outbox
from tasks_demo.patterns import ClaimFirst, DedupLock, Inbox
from tasks_demo.patterns.base import PatternTask
from tasks_demo.records.models import Attempt, Claim, InboxEntry, OutboxMessage, Parked
from tasks_demo.transport import ALIAS

#: kombu's own Redis transports, by their URL scheme.
STOCK_REDIS = ("redis", "rediss", "sentinel")
ON_REDIS = (*STOCK_REDIS, ALIAS)
#: For each transport that redelivers unacknowledged messages after a time: the default in seconds, the transport option that
#: sets it, and the service's maximum in seconds (kombu/transport/{redis,SQS/__init__,SLMQ,pgmq,azureservicebus}.py).
#: RabbitMQ has ``consumer_timeout`` instead. Google's Pub/Sub has no such bound: kombu extends its deadlines. Nor has our own
#: transport for Redis, which redelivers when a worker is dead.
VISIBILITY_TIMEOUT = {
    **dict.fromkeys(STOCK_REDIS, (3600.0, "visibility_timeout", float("inf"))),
    "pgmq": (1800.0, "visibility_timeout", float("inf")),
    "slmq": (1800.0, "visibility_timeout", float("inf")),
    "sqs": (1800.0, "visibility_timeout", 12 * 3600.0),
    "azureservicebus": (60.0, "peek_lock_seconds", 300.0),
}
#: Celery's pool aliases: name -> path of the class.
POOLS: dict[str, str] = getattr(concurrency, "ALIASES")  # noqa: B009  (the stubs lack it)
#: URL schemes of RabbitMQ.
RABBITMQ = ("amqp", "amqps", "pyamqp", "librabbitmq")
#: Pools without child processes: a crash always ends the whole worker.
CHILDLESS_POOLS = ("solo", "threads", "gevent", "eventlet")
#: Celery's default for ``default_retry_delay``, seconds: a task with this value counts as having declared none.
UNDECLARED_RETRY_DELAY = 180


class Visibility(NamedTuple):
    """Seconds that a message may stay unacknowledged before it is redelivered, and the transport option that sets them."""

    seconds: float
    option: str


@dataclass(frozen=True)
class Setup:
    """One app and the tasks to judge. Its properties may raise if a setting cannot be read."""

    app: Any
    tasks: tuple[Any, ...]
    #: The running worker, with the options of its command line; None in ``manage.py check``, which has only the settings.
    worker: Any = None

    @classmethod
    def of(cls, app: Any, worker: Any = None, modules: Container[str] | None = None) -> Setup:
        """Build a Setup from the app's tasks, without Celery's own; ``modules``: only tasks declared there.

        Raises whatever building a task raises.
        """
        found = [task for name, task in sorted(app.tasks.items()) if not name.startswith("celery.")]
        tasks = tuple(task for task in found if modules is None or task.__module__ in modules)
        return cls(app, tasks, worker)

    @property
    def conf(self) -> Any:
        return self.app.conf

    @cached_property
    def late_tasks(self) -> tuple[Any, ...]:
        """The tasks that acknowledge after the body."""
        return tuple(task for task in self.tasks if task.acks_late)

    @cached_property
    def early_tasks(self) -> tuple[Any, ...]:
        """The tasks that acknowledge before the body."""
        return tuple(task for task in self.tasks if not task.acks_late)

    @cached_property
    def locking_tasks(self) -> tuple[Any, ...]:
        """The tasks that hold a lease (DedupLock)."""
        return tuple(task for task in self.tasks if isinstance(task, DedupLock))

    @cached_property
    def remembering_tasks(self) -> tuple[Any, ...]:
        """The tasks whose promise lasts only as long as their record of the operation is kept."""
        return tuple(task for task in self.tasks if isinstance(task, DedupLock | ClaimFirst | Inbox))

    @cached_property
    def transport(self) -> str:
        """The broker's URL scheme, as kombu names it, in lower case."""
        url = self.conf.broker_read_url or ""
        first = url[0] if isinstance(url, (list, tuple)) else str(url).partition(";")[0]
        named = transport_of(str(first))
        return (self.conf.broker_transport or "amqp").lower() if named is None else named

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """CELERY_BROKER_TRANSPORT_OPTIONS."""
        return self.conf.broker_transport_options or {}

    @cached_property
    def visibility(self) -> Visibility | None:
        """The visibility timeout and its option; None if the broker does not redeliver after a time."""
        known = VISIBILITY_TIMEOUT.get(self.transport)
        if known is None or not self.options.get("ack_emulation", True):
            return None
        default, option, most = known
        if self.transport == "azureservicebus" and self.options.get("use_lock_renewal"):
            return Visibility(float(self.options.get("max_lock_renewal_duration", 3600)), "max_lock_renewal_duration")
        given = self.options.get(option)
        return Visibility(min(default if given in (None, "") else float(given), most), option)

    @cached_property
    def visibility_timeout(self) -> float | None:
        """The visibility timeout in seconds; None if the broker does not redeliver after a time."""
        return self.visibility.seconds if self.visibility else None

    @cached_property
    def queues(self) -> dict[str, Any]:
        """The app's queues by name."""
        return queues_of(self.app, self.tasks)

    def queue(self, task: Any) -> Any:
        """Return the queue of this task's jobs unless a call names another; None if it cannot be determined."""
        return queue_of(self.app, self.queues, task)

    @property
    def is_redis(self) -> bool:
        return self.transport in ON_REDIS

    @cached_property
    def is_rabbitmq(self) -> bool:
        return self.transport in RABBITMQ

    def consumer_timeout(self, task: Any) -> float | None:
        """Return how long a message of this task may stay unacknowledged on RabbitMQ, seconds; None on other brokers."""
        if not self.is_rabbitmq:
            return None
        queue = self.queue(task)
        given = (getattr(queue, "queue_arguments", None) or {}).get("x-consumer-timeout")
        seconds: float = float(given) / 1000 if given else settings.CONSUMER_TIMEOUT_SECONDS
        return seconds

    @cached_property
    def delays_natively(self) -> bool:
        """Whether a message with a countdown waits in RabbitMQ, not in a worker: Celery does so with any quorum queue."""
        return self.is_rabbitmq and any(is_quorum(queue) for queue in self.queues.values())

    # -- the worker ---------------------------------------------------------------------------------------------------------

    @cached_property
    def pool(self) -> str:
        """The worker's pool: Celery's alias for it, or the path of its class."""
        given = getattr(self.worker, "pool_cls", None) or self.conf.worker_pool or "prefork"
        path = given if isinstance(given, str) else f"{given.__module__}:{given.__qualname__}"
        return next((name for name, known in POOLS.items() if known == path), path)

    @cached_property
    def enforces_limits(self) -> bool:
        """Whether the pool enforces time limits. Only prefork and its subclasses do."""
        if self.pool in CHILDLESS_POOLS:
            return False
        given = getattr(self.worker, "pool_cls", None)
        try:
            pool = given if isinstance(given, type) else symbol_by_name(self.pool, POOLS)
        except Exception:  # noqa: BLE001  (a third-party pool may be missing here, or raise anything)
            return False
        return isinstance(pool, type) and issubclass(pool, Prefork)

    @cached_property
    def unenforced(self) -> str:
        """A clause saying that the pool does not enforce a time limit; empty if it does."""
        if self.enforces_limits:
            return ""
        if self.pool == "gevent":
            return ", which the pool gevent enforces only while the body waits for I/O"
        return f", which the pool {self.pool} does not enforce"

    @cached_property
    def has_children(self) -> bool:
        """Whether the worker's pool runs tasks in child processes."""
        return self.enforces_limits or not any(name in self.pool for name in CHILDLESS_POOLS)

    @cached_property
    def prefetch(self) -> int:
        """Messages that a worker prefetches per pool process; 0: no bound."""
        known: int | None = getattr(self.worker, "prefetch_multiplier", None)
        return self.conf.worker_prefetch_multiplier if known is None else known

    def declared_limit(self, task: Any) -> float | None:
        """Return the hard time limit in seconds, enforced or not; None: no limit. 0 also means no limit (billiard/pool.py)."""
        limit = task.time_limit or getattr(self.worker, "time_limit", None) or self.conf.task_time_limit
        return float(limit) if limit else None

    def hard_limit(self, task: Any) -> float | None:
        """Return after how many seconds the pool kills the body; None: never. A longer soft limit delays the kill."""
        hard = self.declared_limit(task) if self.enforces_limits else None
        return hard and max(hard, self._soft(task) or 0.0)

    def soft_limit(self, task: Any) -> float | None:
        """Return the soft limit in seconds, or else the hard limit; None: no limit, or the pool enforces none."""
        return (self._soft(task) or self.declared_limit(task)) if self.enforces_limits else None

    def _soft(self, task: Any) -> float | None:
        soft = task.soft_time_limit or getattr(self.worker, "soft_time_limit", None) or self.conf.task_soft_time_limit
        return float(soft) if soft else None

    def limit_in_words(self, task: Any) -> str:
        """Return the hard time limit in words, and whether it is not enforced or is checked only after the soft limit."""
        limit, soft = self.declared_limit(task), self._soft(task)
        if not limit:
            return "without a hard time limit"
        late = f", which Celery checks only after the soft one of {soft:.10g} s" if soft and soft > limit else ""
        return f"with a hard time limit of {limit:.10g} s{self.unenforced or late}"

    @cached_property
    def broker_counts_deliveries(self) -> bool:
        """Whether every queue is a quorum queue with a declared delivery limit, RabbitMQ's own cap on redeliveries."""
        queues = list(self.queues.values())
        return bool(queues) and all(is_quorum(queue) and delivery_limit(queue) for queue in queues)


def transport_of(url: str) -> str | None:
    """Return the part of a broker's URL that names kombu's transport, in lower case; None if the URL has no scheme."""
    scheme, found, _ = url.partition("://")
    return scheme.partition("+")[0].lower() if found else None


def is_on_redis(url: str) -> bool:
    """Return whether the broker at this URL is a Redis server, by kombu's transports or by the reliable transport."""
    return transport_of(url) in ON_REDIS


def is_quorum(queue: Any) -> bool:
    """Return whether the queue is declared as a quorum queue: RabbitMQ counts deliveries only there."""
    return (queue.queue_arguments or {}).get("x-queue-type") == "quorum"


def delivery_limit(queue: Any) -> int | None:
    """Return the declared number of deliveries after which RabbitMQ drops or dead-letters a message; None: its default, or no
    limit."""
    limit = (queue.queue_arguments or {}).get("x-delivery-limit")
    return None if limit is None or int(limit) < 0 else int(limit)


def is_quarantined(task: Any) -> bool:
    """Return whether a job of this task that kills its workers is parked after ``max_attempts``."""
    return isinstance(task, PatternTask) and getattr(task, "max_attempts", None) is not None


def tables_of(task: Any) -> tuple[type[Any], ...]:
    """Return the models of ``tasks_demo.records`` whose tables a job of this task needs to run."""
    own = next((model for pattern, model in _TABLES.items() if isinstance(task, pattern)), None)
    return (*([own] if own else ()), *((Attempt, Parked) if is_quarantined(task) else ()))


def home_of(task: Any, model: type[Any]) -> str:
    """Return the database alias to which this task's pattern writes the model. Parked messages go where the attempts go."""
    return str(getattr(task, "using", None) or router.db_for_write(Attempt if model is Parked else model))


_TABLES: dict[type[PatternTask], type[Any]] = {ClaimFirst: Claim, Inbox: InboxEntry, Outbox: OutboxMessage}


def most_retries(task: Any) -> int | None:
    """Return how often the task may retry; None: no limit."""
    retries: int | None = (getattr(task, "retry_kwargs", None) or {}).get("max_retries", task.max_retries)
    return retries


def retry_delay(task: Any) -> tuple[float, str]:
    """Return the longest declared delay of a retry, in seconds, and where it is declared. A body may ask for a longer one."""
    delays: list[tuple[float, str]] = []
    retries = most_retries(task)
    automatic = bool(getattr(task, "autoretry_for", ())) and retries != 0
    backoff = float(getattr(task, "retry_backoff", False) or 0)
    if automatic and backoff:
        declared = getattr(task, "retry_backoff_max", None)
        # Without a declared maximum Celery uses 600 s (celery/app/autoretry.py); count only what the retries can reach.
        reachable = 600.0 if retries is None else min(600.0, max(1, int(backoff)) * 2.0 ** min(retries - 1, 20))
        delays.append((reachable if declared is None else float(declared), "retry_backoff_max"))
    asked = (getattr(task, "retry_kwargs", None) or {}).get("countdown")
    if automatic and asked is not None and not backoff:
        delays.append((float(asked), "retry_kwargs"))
    used = (automatic and not backoff and asked is None) or (
        getattr(task, "retry_on_worker_lost", False) and retries != 0
    )
    delay = task.default_retry_delay
    if delay and (used or delay != UNDECLARED_RETRY_DELAY):
        delays.append((float(delay), "default_retry_delay"))
    return max(delays, default=(0.0, ""))
