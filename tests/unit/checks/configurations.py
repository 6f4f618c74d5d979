"""A table, one row for each cause of a warning: an unsafe configuration and the nearest safe one; and what builds them.

Over 300 lines: one table, whose rows are read side by side.
"""

from __future__ import annotations

import datetime
import time
import uuid
from collections.abc import Callable
from typing import Any

from celery import Celery, Task
from celery.concurrency.base import BasePool
from celery.concurrency.prefork import TaskPool
from celery.schedules import crontab
from kombu import Queue

from tasks_demo.checks import judge
from tasks_demo.outbox import Outbox
from tasks_demo.patterns import AcksEarly, AcksLate, ClaimFirst, DedupLock, Inbox

Build = Callable[[], Celery]
#: Nothing listens there: a check that connects fails.
REDIS = "redis://:secret@127.0.0.1:1/0"
AMQP = "amqp://guest@127.0.0.1:1//"
#: The reliable transport.
RELIABLE = f"reliable+{REDIS}"
#: A safe RabbitMQ configuration: with publisher confirms.
RABBIT: dict[str, Any] = {"broker_url": AMQP, "broker_transport_options": {"confirm_publish": True}}
#: A queue that counts deliveries and dead-letters messages delivered too often.
COUNTED = {"x-queue-type": "quorum", "x-delivery-limit": 5, "x-dead-letter-exchange": "dead"}

SOUND = {
    "broker_url": REDIS,
    "result_backend": REDIS,
    "task_time_limit": 300,
    "task_soft_time_limit": 240,
    "broker_transport_options": {"visibility_timeout": 900},
    "worker_prefetch_multiplier": 1,
}

LATE: dict[str, Any] = {"acks_late": True, "reject_on_worker_lost": True}


def shop(*tasks: dict[str, Any], **conf: Any) -> Celery:
    """A real app with safe settings, except those given, and one task for each dict of options."""
    app = Celery("shop", set_as_current=False, fixups=[])
    app.conf.update(SOUND | conf)
    # Celery gives every app the shared tasks of all imported modules.
    for name in [name for name in app.tasks if not name.startswith("celery.")]:
        app.tasks.unregister(name)
    for number, options in enumerate(tasks):
        declare(app, f"shop.task{number}", **options)
    return app


def declare(app: Celery, name: str, **options: Any) -> None:
    def body(*args: Any, **kwargs: Any) -> None:
        """Does nothing: the checks only inspect it."""

    app.task(name=name, shared=False, **options)(body)


def quarantined(**options: Any) -> dict[str, Any]:
    """A late-acknowledged task that is safe in every respect, except for the options given."""
    return {"base": AcksLate, "max_attempts": 5, **options}


def locked(**options: Any) -> dict[str, Any]:
    return {"base": DedupLock, "max_attempts": 5, **options}


class Counted(Task):  # type: ignore[type-arg]
    """A third-party base that has nothing to do with our patterns."""

    abstract = True
    max_attempts = 5


class OnceLike(Task):  # type: ignore[type-arg]
    """What celery-once's QueueOnce leaves on a task class."""

    abstract = True
    once = {"graceful": False, "unlock_before_run": False}


class SingletonLike(Task):  # type: ignore[type-arg]
    """What celery-singleton's Singleton leaves on a task class."""

    abstract = True
    lock_expiry = None


def ids(app: Celery) -> list[str]:
    return [str(message.id).removeprefix("tasks_demo.") for message in judge(app)]


def beat(countdown: float) -> dict[str, Any]:
    entry = {"task": "shop.task0", "schedule": crontab(), "options": {"countdown": countdown}}
    return {"nightly": entry}


def every_night(**entry: Any) -> dict[str, Any]:
    return {"nightly": {"task": "shop.task0", "schedule": crontab(), **entry}}


def bounded_by(seconds: int) -> Queue:
    return Queue("slow", queue_arguments={"x-consumer-timeout": seconds * 1000})


class BoundlessPool(BasePool):
    """A third-party pool without time limits."""


class OwnPrefork(TaskPool):
    """A subclass of prefork, which enforces time limits."""


UNLIMITED: dict[str, Any] = {"task_time_limit": None, "task_soft_time_limit": None}
#: One row per cause: an unsafe configuration, and the nearest safe one.
CAUSES: list[tuple[str, str, Build, Build]] = [
    (
        "W001",
        "the time limit is the visibility timeout (and 66 s of it may be spent on being deferred)",
        lambda: shop(quarantined(), task_time_limit=900),
        lambda: shop(quarantined(), task_time_limit=833),
    ),
    (
        "W001",
        "a task's own limit is above Redis's default",
        lambda: shop(quarantined(time_limit=3601, soft_time_limit=10), broker_transport_options={}),
        lambda: shop(quarantined(time_limit=3533, soft_time_limit=10), broker_transport_options={}),
    ),
    (
        "W001",
        "Celery looks at a hard limit only once the soft one above it is over",
        lambda: shop(quarantined(time_limit=10), task_soft_time_limit=1000),
        lambda: shop(quarantined(time_limit=10), task_soft_time_limit=800),
    ),
    (
        "W001",
        "no limit at all",
        lambda: shop(quarantined(soft_time_limit=10), task_time_limit=None),
        lambda: shop({"acks_late": False}, task_time_limit=None),
    ),
    (
        "W001",
        "the reliable transport redelivers nothing that a living worker holds",
        lambda: shop(quarantined(), task_time_limit=900),
        lambda: shop(quarantined(), task_time_limit=900, broker_url=RELIABLE),
    ),
    (
        "W001",
        "SQS has a default of its own",
        lambda: shop(quarantined(time_limit=1800), broker_url="sqs://", broker_transport_options={}),
        lambda: shop(quarantined(time_limit=1800), broker_url="memory://"),
    ),
    (
        "W001",
        "a Unix socket is Redis too",
        lambda: shop(quarantined(time_limit=1000), broker_url="redis+socket:///no/where"),
        lambda: shop(
            quarantined(time_limit=1000),
            broker_url="redis+socket:///no/where",
            broker_transport_options={"ack_emulation": False},
        ),
    ),
    (
        "W002",
        "a declared delay",
        lambda: shop({"default_retry_delay": 900}),
        lambda: shop({"default_retry_delay": 899}),
    ),
    (
        "W002",
        "a late-acknowledged message is held while it waits and while it runs",
        lambda: shop(quarantined(default_retry_delay=600)),
        lambda: shop(quarantined(default_retry_delay=599)),
    ),
    (
        "W002",
        "a declared back-off",
        lambda: shop(quarantined(autoretry_for=(OSError,), retry_backoff=True, retry_backoff_max=7200)),
        lambda: shop(quarantined(autoretry_for=(OSError,), retry_backoff=True, retry_backoff_max=500)),
    ),
    (
        "W002",
        "the back-off of Celery, when the retries get that far",
        lambda: shop(quarantined(autoretry_for=(OSError,), retry_backoff=True, max_retries=None)),
        lambda: shop(quarantined(autoretry_for=(OSError,), retry_backoff=True, max_retries=8)),
    ),
    (
        "W002",
        "a countdown for automatic retries",
        lambda: shop(quarantined(autoretry_for=(OSError,), retry_kwargs={"countdown": 7200})),
        lambda: shop(quarantined(autoretry_for=(OSError,), retry_kwargs={"countdown": 7200, "max_retries": 0})),
    ),
    (
        "W002",
        "a countdown in the beat schedule",
        lambda: shop({}, beat_schedule=beat(900)),
        lambda: shop({}, beat_schedule=beat(899)),
    ),
    (
        "W002",
        "the reliable transport keeps a message for as long as it waits",
        lambda: shop({}, beat_schedule=beat(7200)),
        lambda: shop({}, beat_schedule=beat(7200), broker_url=RELIABLE),
    ),
    (
        "W002",
        "no visibility timeout, no second copy",
        lambda: shop({}, beat_schedule=beat(7200)),
        lambda: shop({}, beat_schedule=beat(7200), broker_url="memory://"),
    ),
    (
        "W003",
        "declared on the task",
        lambda: shop({"acks_late": True}),
        lambda: shop(quarantined()),
    ),
    (
        "W003",
        "declared for all",
        lambda: shop({}, {}, task_acks_late=True),
        lambda: shop(quarantined(), quarantined(), task_acks_late=True, task_reject_on_worker_lost=True),
    ),
    (
        "W003",
        "another way to come back",
        lambda: shop({"acks_late": True, "retry_on_worker_lost": False}),
        lambda: shop({"acks_late": True, "retry_on_worker_lost": True}),
    ),
    (
        "W003",
        "a pool without child processes loses none",
        lambda: shop({"acks_late": True}, worker_pool="prefork"),
        lambda: shop({"acks_late": True}, worker_pool="threads", broker_url="memory://", **UNLIMITED),
    ),
    ("W004", "an ordinary task", lambda: shop(LATE), lambda: shop({"acks_late": True, "retry_on_worker_lost": True})),
    ("W004", "our pattern without a cap", lambda: shop(quarantined(max_attempts=None)), lambda: shop(quarantined())),
    ("W004", "an attribute of the same name is no quarantine", lambda: shop({"base": Counted, **LATE}), lambda: shop()),
    (
        "W004",
        "a retry is capped",
        lambda: shop({**LATE, "retry_on_worker_lost": True, "max_retries": None}),
        lambda: shop({**LATE, "retry_on_worker_lost": True}),
    ),
    (
        "W004",
        "RabbitMQ counts when it is told to",
        lambda: shop(LATE, **RABBIT, task_queues=[Queue("a")]),
        lambda: shop(LATE, **RABBIT, task_default_queue="a", task_queues=[Queue("a", queue_arguments=COUNTED)]),
    ),
    (
        "W005",
        "automatic retries",
        lambda: shop({"autoretry_for": (OSError,)}),
        lambda: shop({"autoretry_for": (OSError,), "max_retries": 0}),
    ),
    (
        "W005",
        "published again when the worker is lost",
        lambda: shop({"retry_on_worker_lost": True}),
        lambda: shop({"base": AcksEarly}),
    ),
    (
        "W005",
        "for all tasks",
        lambda: shop({}, task_retry_on_worker_lost=True),
        lambda: shop({"retry_on_worker_lost": False}, task_retry_on_worker_lost=True),
    ),
    (
        "W006",
        "the cap of our heartbeat",
        lambda: shop(locked(time_limit=3601), broker_url="memory://"),
        lambda: shop(locked(time_limit=3600), broker_url="memory://"),
    ),
    (
        "W006",
        "no time limit",
        lambda: shop(locked(), **RABBIT, task_time_limit=None),
        lambda: shop({}, **RABBIT, task_time_limit=None),
    ),
    (
        "W006",
        "celery-once",
        lambda: shop({"base": OnceLike, "once": {"timeout": 239}}),
        lambda: shop({"base": OnceLike, "once": {"timeout": 240}}),
    ),
    (
        "W006",
        "celery-once's default",
        lambda: shop({"base": OnceLike, "soft_time_limit": 4000, "time_limit": 4100}),
        lambda: shop({"base": OnceLike, "soft_time_limit": 3600, "time_limit": 4100}),
    ),
    (
        "W006",
        "celery-once for the time before the run only",
        lambda: shop({"once": {"timeout": 5}}),
        lambda: shop({"once": {"timeout": 5, "unlock_before_run": True}}),
    ),
    (
        "W006",
        "celery-singleton",
        lambda: shop({"base": SingletonLike, "lock_expiry": 60}),
        lambda: shop({"base": SingletonLike, "lock_expiry": 240}),
    ),
    (
        "W006",
        "celery-singleton without an end",
        lambda: shop({"base": SingletonLike}),
        lambda: shop({"base": SingletonLike}, singleton_lock_expiry=600),
    ),
    (
        "W007",
        "no result backend",
        lambda: shop(quarantined(), worker_deduplicate_successful_tasks=True, result_backend=None),
        lambda: shop(quarantined(), worker_deduplicate_successful_tasks=True),
    ),
    (
        "W007",
        "results that only the caller can read",
        lambda: shop(quarantined(), worker_deduplicate_successful_tasks=True, result_backend="rpc://"),
        lambda: shop(quarantined(), result_backend="rpc://"),
    ),
    (
        "W007",
        "ignored results",
        lambda: shop(quarantined(ignore_result=True), worker_deduplicate_successful_tasks=True),
        lambda: shop({"ignore_result": True}, worker_deduplicate_successful_tasks=True),
    ),
    (
        "W008",
        "Celery's default prefetch",
        lambda: shop(quarantined(), worker_prefetch_multiplier=4),
        lambda: shop(quarantined(soft_time_limit=60), worker_prefetch_multiplier=4),
    ),
    (
        "W008",
        "the reliable transport takes several messages at once, although prefetching is disabled",
        lambda: shop(quarantined(), broker_url=RELIABLE, worker_prefetch_multiplier=4, worker_disable_prefetch=True),
        lambda: shop(quarantined(), worker_prefetch_multiplier=4, worker_disable_prefetch=True),
    ),
    (
        "W008",
        "0 is everything, and no limit is long",
        lambda: shop(quarantined(), broker_url="memory://", worker_prefetch_multiplier=0, **UNLIMITED),
        lambda: shop(quarantined(), worker_prefetch_multiplier=0, worker_disable_prefetch=True),
    ),
    (
        "W009",
        "pickle is taken",
        lambda: shop(accept_content=["json", "pickle"]),
        lambda: shop(accept_content=["json", "msgpack"]),
    ),
    (
        "W009",
        "by its content type",
        lambda: shop(result_accept_content=["application/x-python-serialize"]),
        lambda: shop(result_accept_content=["application/json"]),
    ),
    ("W009", "yaml is taken", lambda: shop(accept_content=["yaml"]), lambda: shop(accept_content=["json"])),
    ("W009", "pickle is sent", lambda: shop(task_serializer="pickle"), lambda: shop(task_serializer="json")),
    (
        "W009",
        "pickle is sent by one task",
        lambda: shop({"serializer": "pickle"}),
        lambda: shop({"serializer": "json"}),
    ),
    (
        "W001",
        "a pool that does not enforce the limit",
        lambda: shop(quarantined(), worker_pool="threads"),
        lambda: shop(quarantined(), worker_pool="processes"),
    ),
    (
        "W001",
        "SQS hides a message for twelve hours at most",
        lambda: shop(quarantined(time_limit=43200), broker_url="sqs://", broker_transport_options={"visibility_timeout": 86400}),
        lambda: shop(quarantined(time_limit=43100), broker_url="sqs://", broker_transport_options={"visibility_timeout": 86400}),
    ),
    (
        "W001",
        "Azure calls it a lock",
        lambda: shop(quarantined(time_limit=100), broker_url="azureservicebus://", broker_transport_options={}),
        lambda: shop(
            quarantined(time_limit=100), broker_url="azureservicebus://",
            broker_transport_options={"use_lock_renewal": True},
        ),
    ),
    (
        "W006",
        "a pool that does not enforce the limit",
        lambda: shop(locked(), broker_url="memory://", worker_pool="solo"),
        lambda: shop(locked(), broker_url="memory://"),
    ),
    (
        "W008",
        "a pool that does not enforce the limit",
        lambda: shop(quarantined(soft_time_limit=60), broker_url="memory://", worker_prefetch_multiplier=4, worker_pool="gevent"),
        lambda: shop(quarantined(soft_time_limit=60), broker_url="memory://", worker_prefetch_multiplier=4),
    ),
    (
        "W012",
        "a pool that does not enforce the limit",
        lambda: shop({"base": Outbox}, worker_pool="eventlet"),
        lambda: shop({"base": Outbox}),
    ),
    (
        "W020",
        "a run of four hours",
        lambda: shop(quarantined(time_limit=4 * 3600), **RABBIT),
        lambda: shop(quarantined(time_limit=1733), **RABBIT),
    ),
    (
        "W020",
        "no limit at all",
        lambda: shop(quarantined(), **RABBIT, task_time_limit=None),
        lambda: shop({}, **RABBIT, task_time_limit=None),
    ),
    (
        "W020",
        "a limit that nothing enforces",
        lambda: shop(quarantined(), **RABBIT, worker_pool="threads"),
        lambda: shop(quarantined(), **RABBIT, worker_pool="prefork"),
    ),
    (
        "W020",
        "the queue's own bound, in milliseconds",
        lambda: shop(quarantined(), **RABBIT, task_routes={"shop.*": "slow"}, task_queues=[bounded_by(300)]),
        lambda: shop(
            quarantined(time_limit=7200), task_routes={"shop.*": "slow"}, **RABBIT,
            task_queues=[bounded_by(36_000)],
        ),
    ),
    (
        "W020",
        "a message that waits in a worker, acknowledged early or not",
        lambda: shop({}, **RABBIT, beat_schedule=beat(7200)),
        lambda: shop({}, **RABBIT, beat_schedule=beat(1799)),
    ),
    (
        "W020",
        "a retry that waits in a worker; with quorum queues RabbitMQ does the waiting",
        lambda: shop(quarantined(default_retry_delay=1790), **RABBIT),
        lambda: shop(quarantined(default_retry_delay=7200), **RABBIT, task_queues=[Queue("celery", queue_arguments=COUNTED)]),
    ),
    (
        "W021",
        "RabbitMQ's own limit",
        lambda: shop({}, **RABBIT, task_queues=[Queue("celery", queue_arguments={"x-queue-type": "quorum"})]),
        lambda: shop({}, **RABBIT, task_queues=[Queue("celery", queue_arguments=COUNTED)]),
    ),
    (
        "W021",
        "a declared limit",
        lambda: shop(
            {}, **RABBIT, task_queues=[Queue("celery", queue_arguments={"x-queue-type": "quorum", "x-delivery-limit": 3})]
        ),
        lambda: shop(
            {}, **RABBIT, task_queues=[Queue("celery", queue_arguments={"x-queue-type": "quorum", "x-delivery-limit": -1})]
        ),
    ),
    (
        "W021",
        "the default queue",
        lambda: shop({}, **RABBIT, task_default_queue_type="quorum"),
        lambda: shop({}, **RABBIT, task_default_queue_type="classic"),
    ),
    (
        "W021",
        "a queue that a route makes",
        lambda: shop({}, **RABBIT, task_create_missing_queue_type="quorum", task_routes={"shop.*": {"queue": "slow"}}),
        lambda: shop({}, **RABBIT, task_create_missing_queue_type="classic", task_routes={"shop.*": {"queue": "slow"}}),
    ),
    ("W022", "nothing is confirmed", lambda: shop({}, broker_url=AMQP), lambda: shop({}, **RABBIT)),
    (
        "W023",
        "a constant key",
        lambda: shop(locked(operation=lambda: "nightly"), beat_schedule=every_night()),
        lambda: shop(locked(operation=lambda: f"nightly:{datetime.datetime.now(datetime.UTC):%j}"), beat_schedule=every_night()),
    ),
    (
        "W023",
        "a key of constant arguments",
        lambda: shop(locked(operation=lambda shop, **_: f"report:{shop}"), beat_schedule=every_night(kwargs={"shop": 3})),
        lambda: shop(locked(), beat_schedule=every_night(kwargs={"shop": 3})),
    ),
    (
        "W023",
        "whichever pattern remembers the key",
        lambda: shop({"base": ClaimFirst, "operation": lambda shop: f"report:{shop}"}, beat_schedule=every_night(args=[3])),
        lambda: shop({"base": AcksEarly, "operation": lambda shop: f"report:{shop}"}, beat_schedule=every_night(args=[3])),
    ),
    (
        "W023",
        "a key that is constant although something else is asked for the time",
        lambda: shop({"base": Inbox, "operation": lambda: "nightly" + "".upper()}, beat_schedule=every_night()),
        lambda: shop({"base": Inbox, "operation": lambda: f"nightly:{time.strftime('%j')}"}, beat_schedule=every_night()),
    ),
    (
        "W023",
        "arguments that fit no operation",
        lambda: shop(locked(operation=lambda shop: f"report:{shop}"), beat_schedule=every_night()),
        lambda: shop(locked(operation=lambda shop: f"report:{shop}:{uuid.uuid4()}"), beat_schedule=every_night(args=[3])),
    ),
    (
        "W024",
        "a limit of a task that is acknowledged early",
        lambda: shop({}, worker_pool="threads"),
        lambda: shop({}, worker_pool="threads", task_time_limit=None, task_soft_time_limit=None),
    ),
    (
        "W024",
        "a pool of somebody else's",
        lambda: shop({}, worker_pool="tests.unit.checks.configurations:BoundlessPool"),
        lambda: shop({}, worker_pool="tests.unit.checks.configurations:OwnPrefork"),
    ),
    (
        "W024",
        "a pool that cannot be found",
        lambda: shop({}, worker_pool="no.such.module:Pool"),
        lambda: shop({}, worker_pool="celery.concurrency.prefork:TaskPool"),
    ),
]  # fmt: skip
