"""The system checks: each reports an unsafe configuration, is silent on the safe one beside it, and never raises."""

from __future__ import annotations

import datetime
import re
import socket
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import celery
import pytest
from celery import Celery, Task
from celery.concurrency.base import BasePool
from celery.concurrency.prefork import TaskPool
from celery.concurrency.thread import TaskPool as Threads
from celery.schedules import crontab
from django.core.management import call_command
from kombu import Queue
from pytest_django import Settings

from tasks_demo.checks import NAMED, check_delivery, judge
from tasks_demo.checks.rules import RULES
from tasks_demo.core.installed import check_installed
from tasks_demo.outbox import Outbox
from tasks_demo.patterns import AcksEarly, AcksLate, ClaimFirst, DedupLock, Inbox
from tests.support import PROJECT, Home

Build = Callable[[], Celery]

#: Nothing listens there: a check that connects fails.
REDIS = "redis://:secret@127.0.0.1:1/0"
AMQP = "amqp://guest@127.0.0.1:1//"
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
#: Checks of settings that a later Celery introduced.
SINCE = {"W005": "5.7", "W021": "5.6"}
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
        lambda: shop({}, worker_pool="tests.unit.checks.test_checks:BoundlessPool"),
        lambda: shop({}, worker_pool="tests.unit.checks.test_checks:OwnPrefork"),
    ),
    (
        "W024",
        "a pool that cannot be found",
        lambda: shop({}, worker_pool="no.such.module:Pool"),
        lambda: shop({}, worker_pool="celery.concurrency.prefork:TaskPool"),
    ),
]  # fmt: skip


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a check opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("number", "unsafe"), [pytest.param(number, unsafe, id=f"{number} {what}") for number, what, unsafe, _ in CAUSES]
)
def test_an_unsafe_configuration_is_named(number: str, unsafe: Build) -> None:
    if celery.__version__ < SINCE.get(number, ""):
        pytest.skip("this Celery has no such setting")
    app = unsafe()
    found = [message for message in judge(app) if message.id == f"tasks_demo.{number}"]
    assert len(found) == 1, judge(app)
    assert "tasks_demo.W000" not in {message.id for message in judge(app)}
    text, hint = found[0].msg, found[0].hint or ""
    assert "\n" not in text
    assert text.endswith(".")
    assert "write " in hint.lower() or "declare " in hint.lower()
    assert "secret" not in text + hint


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("sound", [pytest.param(sound, id=f"{number} {what}") for number, what, _, sound in CAUSES])
def test_the_sound_configuration_beside_it_is_silent(sound: Build) -> None:
    assert judge(sound()) == []


@pytest.mark.parametrize(
    ("books", "registered", "said"),
    [
        ("payments", {}, "no books of that name"),
        ("payment", {"payments": "tasks_demo.demo.ledger_books.Bookings"}, "no books of that name"),
        ("payments", {"payments": "shop.nowhere.Payments"}, "cannot be imported"),
        ("payments", {"payments": "tasks_demo.core.conf.Settings"}, "no subclass of"),
        ("payments", {"payments": "tasks_demo.demo.ledger_books.Bookings"}, ""),
        ("", {"recorded": "tasks_demo.demo.ledger_books.Bookings"}, "is taken"),
    ],
)
def test_books_that_nobody_reads_are_named(
    settings: Settings, books: str, registered: dict[str, str], said: str
) -> None:
    settings.TASKS_DEMO_BOOKS = registered
    app = shop({"base": AcksLate, "books": books})
    found = [message for message in judge(app) if message.id == "tasks_demo.W017"]
    assert [said in message.msg for message in found] == [True] * bool(said)
    if books == "payment":
        assert found[0].hint == "Write books='payments'."


@pytest.mark.parametrize(
    ("package", "version", "said"),
    [
        ("celery", "5.4.0", "Celery 5.4.0 is installed; tasks_demo is tested on 5.5,"),
        ("django", "6.1a1", "Django 6.1a1"),
        ("celery", "5.6.3", ""),
    ],
)
def test_version_that_nobody_has_tested_is_named(
    monkeypatch: pytest.MonkeyPatch, package: str, version: str, said: str
) -> None:
    monkeypatch.setattr(f"{package}.__version__", version)
    found = [message.msg for message in judge(shop({})) if message.id == "tasks_demo.W025"]
    assert [message.startswith(said) for message in found] == [True] * bool(said)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("PUBLISHABLE", 17, "TASKS_DEMO_PUBLISHABLE is 17; it must be a list of names"),
        (
            "PUBLISHABLE",
            ["tasks_demo.charge_acks_lat"],
            "has 'tasks_demo.charge_acks_lat', which no registered task matches",
        ),
        ("PUBLISHABLE", ["*"], "allows Celery's own tasks too"),
        ("MASKED", {"a": 1}, "TASKS_DEMO_MASKED is {'a': 1}; it must be a list of names"),
        ("PUBLISHABLE", ["tasks_demo.charge_*", "tasks_demo.charge_inbox"], ""),
        ("MASKED", [], ""),
    ],
)
def test_w026_judges_what_people_may_publish_and_see(settings: Settings, setting: str, value: Any, said: str) -> None:
    setattr(settings, f"TASKS_DEMO_{setting}", value)
    found = [message.msg for message in check_delivery() if message.id == "tasks_demo.W026"]
    assert [said in message for message in found] == [True] * bool(said), found


def test_every_rule_has_a_case() -> None:
    of_settings = {"W010", "W011", "W012", "W013", "W017", "W018", "W019", "W025", "W026"}
    elsewhere = {"W014", "W015", "W016"}  # test_final_tasks.py
    assert set(RULES) == {number for number, *_ in CAUSES} | of_settings | elsewhere


def test_a_sound_app_is_silent() -> None:
    app = shop(
        {}, {"ignore_result": True}, quarantined(), locked(), {"base": AcksEarly},
        quarantined(autoretry_for=(OSError,), retry_backoff=True, max_retries=8),
        worker_deduplicate_successful_tasks=True, beat_schedule=beat(60),
    )  # fmt: skip
    assert judge(app) == []


def test_an_app_without_tasks_is_silent() -> None:
    assert judge(shop()) == []


@pytest.mark.parametrize(
    ("number", "setting", "unsafe", "sound"),
    [
        ("W002", "DEFER_MAX_SECONDS", 600, 500),
        ("W006", "LEASE_CAP_SECONDS", 299, 300),
        ("W010", "LEASE_SECONDS", 14, 15),
        ("W010", "REDIS_TIMEOUT_SECONDS", "11", "10"),
        ("W011", "RETENTION_SECONDS", 900, 901),
    ],
)
def test_our_own_settings(number: str, setting: str, unsafe: Any, sound: Any, settings: Settings) -> None:
    app = shop(locked())
    setattr(settings, f"TASKS_DEMO_{setting}", unsafe)
    assert ids(app) == [number]
    setattr(settings, f"TASKS_DEMO_{setting}", sound)
    assert ids(app) == []


@pytest.mark.parametrize(("base", "number"), [(ClaimFirst, "W011"), (Inbox, "W011"), (Outbox, "W012")])
def test_what_other_patterns_remember_is_judged_too(base: Any, number: str, settings: Settings) -> None:
    app = shop({"base": base})
    assert ids(app) == []
    settings.TASKS_DEMO_RETENTION_SECONDS, settings.TASKS_DEMO_OUTBOX_UNFINISHED_SECONDS = 900, 300
    assert ids(app) == [number]
    settings.TASKS_DEMO_RETENTION_SECONDS, settings.TASKS_DEMO_OUTBOX_UNFINISHED_SECONDS = 901, 301
    assert ids(app) == []


@pytest.mark.parametrize("url", ["", "localhost", "amqp://host"])
def test_a_lock_without_a_redis_is_said_where_a_task_uses_it(url: str, settings: Settings) -> None:
    settings.TASKS_DEMO_REDIS_URL = url
    assert ids(shop(quarantined(time_limit=300))) == []
    assert ids(shop(locked())) == ["W013"]


def test_our_own_settings_do_not_matter_to_tasks_of_others(settings: Settings) -> None:
    settings.TASKS_DEMO_LEASE_SECONDS = settings.TASKS_DEMO_RETENTION_SECONDS = 1
    settings.TASKS_DEMO_LEASE_CAP_SECONDS = 2
    settings.TASKS_DEMO_DEFER_MAX_SECONDS = 7200
    assert judge(shop({}, {"default_retry_delay": 60})) == []


def test_a_shared_cause_is_one_warning_that_counts_and_names() -> None:
    few = judge(shop(*[{"acks_late": True}] * 2))
    many = judge(shop(*[{"acks_late": True}] * (NAMED + 3)))
    assert [message.id for message in many] == ["tasks_demo.W003"]
    assert few[0].msg.startswith("2 tasks (shop.task0, shop.task1): acks_late without")
    assert many[0].msg.startswith(f"{NAMED + 3} tasks (shop.task0, ")
    assert "and 3 more): " in many[0].msg
    assert judge(shop({"acks_late": True}))[0].msg.startswith("Task shop.task0: ")


def test_two_causes_are_two_warnings() -> None:
    app = shop(quarantined(time_limit=1000), quarantined(time_limit=2000), quarantined(time_limit=2000))
    found = [message.msg for message in judge(app)]
    assert [text.partition(":")[0] for text in found] == ["Task shop.task0", "2 tasks (shop.task1, shop.task2)"]


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"broker_transport_options": {"visibility_timeout": "soon"}}, "could not convert string to float"),
        ({"broker_transport_options": 17}, "W001 could not be judged"),
        ({"beat_schedule": 17}, "W002 could not be judged"),
        ({"task_queues": 17}, "W004 could not be judged"),
        ({"accept_content": 17}, "W009 could not be judged"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_said_and_never_raised(conf: dict[str, Any], said: str) -> None:
    found = [message for message in judge(shop(locked(), **conf)) if message.id == "tasks_demo.W000"]
    assert any(said in message.msg for message in found), found


def test_a_setting_of_ours_that_cannot_work_is_said(settings: Settings) -> None:
    settings.TASKS_DEMO_LEASE_SECONDS = "long"
    (found,) = judge(shop(locked()))
    assert found.id == "tasks_demo.W000"
    assert "TASKS_DEMO_LEASE_SECONDS is 'long'; it must be float" in found.msg


def test_a_contradictory_declaration_is_said() -> None:
    app = Celery("shop", set_as_current=False, fixups=[])
    declare(app, "shop.charge", base=AcksLate, reject_on_worker_lost=False)  # built when the app is first used
    (found,) = judge(app)
    assert found.id == "tasks_demo.W000"
    assert "reject_on_worker_lost=False contradicts the pattern acks_late" in found.msg


@pytest.mark.parametrize(
    "broker", ["", "nonsense", "redis://[", "redis://a;redis://b", ["redis://a", "redis://b"], "://"]
)
def test_strange_broker_addresses_do_not_raise(broker: Any) -> None:
    redis = "redis://a" in broker or broker == "redis://["
    found = ids(shop(quarantined(time_limit=1000), broker_url=broker))
    # Without a scheme Celery uses its default, RabbitMQ.
    assert found == (["W001"] if redis else [] if broker == "://" else ["W022"])


def test_our_own_settings_are_silent_and_the_tasks_are_seen() -> None:
    from celery import current_app

    assert check_delivery() == []
    assert "tasks_demo.charge_dedup_lock" in current_app.tasks


def test_the_command_shows_them_and_django_silences_them(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.TASKS_DEMO_RETENTION_SECONDS = 60
    call_command("check", "--tag", "celery")
    shown = capsys.readouterr().err
    assert re.search(r"\(tasks_demo\.W011\) \d+ tasks", shown), shown
    assert "TASKS_DEMO_RETENTION_SECONDS is 60 s" in shown
    assert "HINT: Write TASKS_DEMO_RETENTION_SECONDS well above 900" in shown
    settings.SILENCED_SYSTEM_CHECKS = ["tasks_demo.W011"]
    call_command("check", "--tag", "celery")
    assert "W011" not in capsys.readouterr().err


def test_the_real_command_imports_the_tasks_and_needs_no_server(home: Home) -> None:
    done = home.manage("check", env={"REDIS_URL": REDIS, "TASKS_DEMO_LEASE_SECONDS": "6"})
    assert done.code == 0
    assert "(tasks_demo.W010) Task tasks_demo.charge_dedup_lock: " in done.sentence()
    assert "secret" not in done.err


def test_a_task_module_that_cannot_be_imported_is_said(home: Home) -> None:
    done = home.python(
        "from celery import Celery\n"
        "from django.core.checks import run_checks\n"
        "Celery('shop', include=['shop.no_such_module']).set_current()\n"
        "for message in run_checks(tags=['celery']): print(message.id, message.msg)\n"
    )
    assert done.code == 0, done.err
    assert (
        "tasks_demo.W000 A task module cannot be imported, so its tasks were not judged: ModuleNotFoundError"
        in done.out
    )


def test_the_page_has_a_row_for_every_check() -> None:
    page = (PROJECT / "docs" / "reference" / "checks.md").read_text(encoding="utf-8")
    for number in ("W000", *RULES):
        assert f"| `tasks_demo.{number}` |" in page


# -- what is not installed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (locked(), "attempts and parked messages"),
        (locked(max_attempts=None), ""),
        ({"base": Inbox}, "inbox entries and attempts and parked messages"),
        ({"base": ClaimFirst}, "claims"),
        ({"base": Outbox}, "outbox messages and attempts and parked messages"),
        ({"base": AcksEarly}, ""),
        ({}, ""),
    ],
    ids=str,
)
def test_a_pattern_whose_tables_are_not_installed_is_named(
    options: dict[str, Any], said: str, settings: Settings
) -> None:
    app = shop(options)
    assert "W019" not in ids(app)
    settings.INSTALLED_APPS = [name for name in settings.INSTALLED_APPS if name != "tasks_demo.records"]
    found = [message for message in judge(app) if message.id == "tasks_demo.W019"]
    assert [f"keeps its {said} in tables of tasks_demo.records" in message.msg for message in found] == [True] * bool(
        said
    )
    assert all("'tasks_demo.records' into INSTALLED_APPS" in (message.hint or "") for message in found)


def test_the_app_itself_that_is_not_installed_is_said(settings: Settings) -> None:
    assert check_installed() == []
    settings.INSTALLED_APPS = [name for name in settings.INSTALLED_APPS if name != "tasks_demo"]
    (found,) = check_installed()
    assert "'tasks_demo' is not installed" in found.msg


# -- what a worker's command line says ---------------------------------------------------------------------------------------


@dataclass
class Booted:
    """The attributes of a booting worker that Celery's signal passes on."""

    pool_cls: Any
    time_limit: float | None = None
    soft_time_limit: float | None = None
    prefetch_multiplier: int | None = None


def test_a_worker_judges_the_pool_that_it_has() -> None:
    app = shop(quarantined())
    assert judge(app, Booted(TaskPool)) == []
    found = {str(message.id).removeprefix("tasks_demo."): message.msg for message in judge(app, Booted(Threads))}
    assert set(found) == {"W001", "W024"}
    assert all("which the pool threads does not enforce" in text for text in found.values())
    # The setting says threads, the command line prefork.
    assert judge(shop(quarantined(), worker_pool="threads"), Booted(TaskPool)) == []


def test_limits_and_prefetch_of_the_command_line_count() -> None:
    app = shop(quarantined(), **UNLIMITED, worker_prefetch_multiplier=4)
    assert ids(app) == ["W001", "W008"]
    assert judge(app, Booted(TaskPool, time_limit=300, soft_time_limit=50)) == []
    assert [message.id for message in judge(app, Booted(TaskPool, 300, prefetch_multiplier=1))] == []


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent", "eventlet"])
def test_the_pool_is_named_that_does_not_enforce(pool: str) -> None:
    text = " ".join(message.msg for message in judge(shop(quarantined(), worker_pool=pool)))
    assert text.count(f"which the pool {pool} ") == 2, text


def test_no_hint_recommends_a_hard_limit_without_saying_what_it_costs() -> None:
    for app in (shop(quarantined(time_limit=5000)), shop(quarantined(time_limit=5000), **RABBIT)):
        (found,) = (message for message in judge(app) if message.id in {"tasks_demo.W001", "tasks_demo.W020"})
        assert "does not run again by itself" in (found.hint or "")
        assert "soft_time_limit" in (found.hint or "")


def test_our_value_of_the_server_s_bound_counts(settings: Settings) -> None:
    app = shop(quarantined(time_limit=4 * 3600), **RABBIT)
    assert ids(app) == ["W020"]
    settings.TASKS_DEMO_CONSUMER_TIMEOUT_SECONDS = 5 * 3600
    assert ids(app) == []


def test_a_route_is_followed_to_the_bound_of_its_queue() -> None:
    queues = [Queue("celery"), bounded_by(36_000)]
    app = shop(quarantined(time_limit=7200), **RABBIT, task_queues=queues)
    assert ids(app) == ["W020"]
    for route in ({"queue": "slow"}, "slow"):
        app = shop(quarantined(time_limit=7200), **RABBIT, task_queues=queues, task_routes={"shop.task0": route})
        assert ids(app) == []
    assert set(app.amqp.queues) == {"celery", "slow"}


def test_a_router_that_fails_hides_nothing() -> None:
    def router(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> Any:
        return {"queue": args[0]}

    assert ids(shop(quarantined(time_limit=7200), **RABBIT, task_routes=(router,))) == ["W020"]


def test_the_default_queue_of_an_app_is_not_made_by_looking() -> None:
    app = shop({}, **RABBIT, task_routes={"shop.task0": {"queue": "slow"}})
    assert judge(app) == []
    assert set(app.amqp.queues) == {"celery"}


def test_the_profile_of_somebody_else_is_left_alone() -> None:
    def mine(*_: Any) -> None:
        """A profiler."""

    sys.setprofile(mine)
    try:
        judge(shop(locked(operation=lambda: "nightly"), beat_schedule=every_night()))
        assert sys.getprofile() is mine
    finally:
        sys.setprofile(None)
