"""The final task and each call are compared with the promise, whatever changed them after the declaration.

Over 300 lines: each test declares the tasks that it is about.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from celery import Celery, Task, chain, chord, group
from celery.contrib.django.task import DjangoTask
from celery.schedules import crontab
from django.db import transaction

from tasks_demo.checks.rules import RULES
from tasks_demo.checks.setup import Setup
from tasks_demo.core import lifecycle
from tasks_demo.core.exceptions import BodyNotRun, ContradictoryDeclaration, PublishedInTransaction
from tasks_demo.outbox import Outbox
from tasks_demo.patterns import AcksEarly, AcksLate, ClaimFirst, DedupLock, Inbox, transactions
from tasks_demo.patterns.base import PatternTask
from tasks_demo.patterns.execution import finished

EARLY, LATE = [AcksEarly, ClaimFirst], [AcksLate, DedupLock, Inbox, Outbox]
PATTERNS = [*EARLY, *LATE]


def ident(value: Any) -> str:
    return getattr(value, "pattern", "") or getattr(value, "__name__", "") or type(value).__name__


def declared(body: Any, base: Any = AcksLate, conf: Any = None, **options: Any) -> Any:
    app = Celery("final", set_as_current=False, broker="memory://")
    app.conf.update({"task_default_queue": f"final-{uuid.uuid4()}", **(conf or {})})
    task = app.task(base=base, name="final.task", shared=False, **options)(body)
    app.finalize()
    return task


def body(order_id: int = 0) -> int:
    return order_id


# -- bodies that return before they have run ------------------------------------------------------------------------------


async def asynchronous(order_id: int = 0) -> None: ...


def generator(order_id: int = 0) -> Iterator[int]:
    yield order_id


async def async_generator(order_id: int = 0) -> AsyncIterator[int]:
    yield order_id


class Callable_:
    __name__ = "callable"

    async def __call__(self, order_id: int = 0) -> None: ...


def partly() -> Any:
    part = functools.partial(asynchronous, 1)
    functools.update_wrapper(part, asynchronous)
    return part


@pytest.mark.parametrize("base", PATTERNS, ids=ident)
@pytest.mark.parametrize("bad", [asynchronous, generator, async_generator, Callable_(), partly()], ids=ident)
def test_body_that_would_not_run_is_refused_at_declaration(base: Any, bad: Any) -> None:
    with pytest.raises(ContradictoryDeclaration, match=r"Write def"):
        base.task(name="final.never")(bad)
    with pytest.raises(ContradictoryDeclaration, match=r"Write def"):
        type("Mine", (base,), {"run": bad if not isinstance(bad, Callable_) else staticmethod(bad)})


@pytest.mark.parametrize("base", PATTERNS, ids=ident)
def test_call_that_runs_the_coroutine_is_accepted(base: Any) -> None:
    @functools.wraps(asynchronous)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asynchronous(*args, **kwargs))

    declared(run, base)
    declared(lambda_named(lambda order_id: async_to_sync(asynchronous)(order_id)), base)


def lambda_named(function: Callable[..., Any]) -> Callable[..., Any]:
    function.__name__ = "named"
    return function


@pytest.mark.parametrize(
    "make", [asynchronous, generator, async_generator, lambda: map(str, []), lambda: filter(None, [])]
)
def test_returned_coroutine_or_generator_is_not_a_proof(make: Any) -> None:
    with pytest.raises(BodyNotRun, match="the work is not done"):
        finished(declared(body), make())


@pytest.mark.parametrize("result", [None, [1], "text", {"a": 1}, iter([1])], ids=ident)
def test_call_passes_any_other_result_on(result: Any) -> None:
    assert finished(declared(body), result) is result


# -- __call__ --------------------------------------------------------------------------------------------------------------


class Tracing:
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)  # type: ignore[attr-defined]


class ProjectTask(Task):  # type: ignore[type-arg]
    abstract = True
    tenant = "none"
    entered: list[str] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.entered.append(self.name)
        return super().__call__(*args, **kwargs)


@pytest.mark.parametrize("base", PATTERNS, ids=ident)
def test_call_that_takes_the_place_of_the_pattern_s_is_refused(base: Any) -> None:
    with pytest.raises(ContradictoryDeclaration, match=r"run_body\(self, \*args, \*\*kwargs\)"):
        type("Traced", (base,), {"__call__": Tracing.__call__})
    with pytest.raises(ContradictoryDeclaration, match="replaces __call__"):
        type("Traced", (Tracing, base), {})
    with pytest.raises(ContradictoryDeclaration, match="replaces __call__"):
        declared(body, base, conf={"task_annotations": {"*": {"__call__": Tracing.__call__}}})


@pytest.mark.parametrize("base", PATTERNS, ids=ident)
def test_call_that_calls_that_of_the_pattern_is_accepted(base: Any) -> None:
    class Mine(base):  # type: ignore[misc]
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    assert declared(body, Mine)(17) == 17
    with pytest.raises(ContradictoryDeclaration, match="replaces __call__"):
        type("Traced", (Mine, Tracing), {"__call__": Tracing.__call__})


def test_call_behind_the_pattern_goes_around_the_body() -> None:
    class Charge(DedupLock, ProjectTask):
        abstract = True

    task = declared(body, Charge)
    ProjectTask.entered.clear()
    assert task(17) == 17
    assert ProjectTask.entered == ["final.task"]


def test_run_body_goes_around_every_body() -> None:
    seen: list[Any] = []

    class Traced(AcksLate):
        abstract = True

        def run_body(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(args)
            return super().run_body(*args, **kwargs)

    assert declared(body, Traced).apply((17,)).get() == 17
    assert seen == [(17,)]


# -- annotations, attributes and options of a call -----------------------------------------------------------------------


class Annotating:
    def annotate(self, task: Any) -> dict[str, Any]:
        return {"acks_late": False} if task.name == "final.task" else {}


@pytest.mark.parametrize(
    "annotations",
    [
        {"*": {"acks_late": False}}, {"final.task": {"reject_on_worker_lost": False}}, [{"final.task": {"expires": 60}}],
        Annotating(), {"*": {"retry_on_worker_lost": True}}, {"*": {"max_attempts": 0}}, {"*": {"time_limit": -1}},
    ],
    ids=lambda value: re.sub(r" object at.*", "", repr(value)),
)  # fmt: skip
def test_annotation_that_breaks_the_promise_is_refused(annotations: Any) -> None:
    with pytest.raises(ContradictoryDeclaration):
        declared(body, conf={"task_annotations": annotations})


def test_settings_of_celery_do_not_change_a_pattern() -> None:
    late = declared(body, conf={"task_acks_late": False, "task_reject_on_worker_lost": False})
    early = declared(body, AcksEarly, conf={"task_acks_late": True, "task_reject_on_worker_lost": True})
    assert (late.acks_late, late.reject_on_worker_lost, early.acks_late, early.reject_on_worker_lost) == (
        True, True, False, False,
    )  # fmt: skip
    declared(body, conf={"task_annotations": {"*": {"rate_limit": "10/s"}}})


def warnings_of(task: Any) -> list[str]:
    # Of this task only: an app has the shared tasks of every imported module, and a message names five.
    setup = Setup(task.app, (task.app.tasks[task.name],))
    return [
        f"{number} {found.task}: {found.what}" for number in ("W014", "W015", "W016") for found in RULES[number](setup)
    ]


@pytest.mark.parametrize(("name", "value"), [("acks_late", False), ("reject_on_worker_lost", False), ("expires", 60)])
def test_attribute_that_is_changed_later_is_refused_at_a_call_and_named_by_the_check(name: str, value: Any) -> None:
    task = declared(body)
    setattr(task, name, value)
    with pytest.raises(ContradictoryDeclaration, match=f"{name}="):
        task.delay(1)
    assert any("W014 final.task" in said and name in said for said in warnings_of(task))


@pytest.mark.parametrize("base", LATE, ids=ident)
def test_expiry_at_the_call_is_refused(base: Any) -> None:
    task = declared(body, base)
    for publish in (
        lambda: task.apply_async((1,), expires=60),
        lambda: task.s(1).set(expires=60).delay(),
        lambda: task.s(1).apply_async(expires=60),
        lambda: group(task.s(1), task.s(2)).apply_async(expires=60),
        lambda: chain(task.s(1), task.si(2).set(expires=60)).apply_async(),
        lambda: task.apply_async((1,), link=task.si(2).set(expires=60)),
        lambda: task.apply_async((1,), link_error=[task.si(2).set(expires=60)]),
        lambda: task.apply_async((1,), link=group(task.si(2), task.si(3).set(expires=60))),
        lambda: task.apply_async((1,), link=task.si(2).set(link=task.si(3).set(expires=60))),
        lambda: chain(task.s(1), group(task.si(2), chain(task.si(3), task.si(4).set(expires=60)))).apply_async(),
        lambda: task.apply_async((1,), link=chord([task.si(2)], task.si(3).set(expires=60))),
        lambda: task.apply_async_on_commit((1,), expires=60),
    ):
        with pytest.raises(ContradictoryDeclaration, match="expires=60"):
            publish()


@pytest.mark.parametrize("base", PATTERNS, ids=ident)
def test_errback_that_would_not_get_its_arguments_is_refused(base: Any) -> None:
    def as_celery_documents(request: Any, exc: Exception, traceback: Any) -> None: ...

    task = declared(as_celery_documents, base)
    errback = task.s()
    for publish in (
        lambda: task.apply_async((1, 2, 3), link_error=errback),
        lambda: task.apply_async((1, 2, 3), link=task.si(1, 2, 3).on_error(errback)),
        lambda: chain(task.si(1, 2, 3), task.si(1, 2, 3)).on_error(errback).delay(),
    ):
        with pytest.raises(
            ContradictoryDeclaration, match=r"As link_error, final.task\(\) missing the required argument"
        ):
            publish()
    task.apply_async((1, 2, 3), link_error=task.si(1, 2, 3))
    task.apply_async((1, 2, 3), link_error=[task.s(exc=2, traceback=3), task.s(2, 3)])


@pytest.mark.parametrize("base", PATTERNS, ids=ident)
@pytest.mark.parametrize("how", [lambda t: t.map([1]), lambda t: t.starmap([(1,)]), lambda t: t.chunks([(1,)], 1)])
def test_bodies_inside_a_task_of_celery_s_own_are_refused(base: Any, how: Any) -> None:
    with pytest.raises(ContradictoryDeclaration, match=f"where the pattern {base.pattern} does not apply"):
        how(declared(body, base))


@pytest.mark.parametrize(
    ("task_s", "call_s", "said"),
    [
        ({"soft_time_limit": 60}, {"time_limit": 2}, "soft_time_limit=60 is not below time_limit=2"),
        ({"time_limit": 2}, {"soft_time_limit": 2}, "soft_time_limit=2 is not below time_limit=2"),
        ({}, {"soft_time_limit": 9, "time_limit": 3}, "soft_time_limit=9 is not below time_limit=3"),
        ({}, {"time_limit": "3"}, "Write seconds"),
    ],
)
def test_limits_of_a_call_that_do_not_go_together_are_refused(task_s: Any, call_s: Any, said: str) -> None:
    task = declared(body, **task_s)
    for publish in (
        lambda: task.apply_async((1,), **call_s),
        lambda: chain(task.s(1), task.si(2).set(**call_s)).apply_async(),
    ):
        with pytest.raises(ContradictoryDeclaration, match=said):
            publish()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"countdwon": 5}, "countdown"),
        ({"acks_late": False}, "acks_late"),
        ({"max_attempts": 3}, "declared"),
        ({"expire": 1}, "expires"),
        ({"opertion": "key"}, "Did you mean .operation.. Write it where the task is declared"),
    ],
)
def test_option_that_would_do_nothing_is_refused(options: Any, said: str) -> None:
    with pytest.raises(ContradictoryDeclaration, match=said):
        declared(body).apply_async((1,), **options)


def test_schedule_with_an_expiry_is_named() -> None:
    entry = {"task": "final.task", "schedule": crontab(), "options": {"expires": 60}}
    task = declared(body, conf={"beat_schedule": {"nightly": entry}})
    assert any("W016 final.task: beat entry 'nightly'" in said for said in warnings_of(task))


# -- the app's own task class ---------------------------------------------------------------------------------------------


def test_patterns_are_tasks_of_celery_s_django_class() -> None:
    assert issubclass(PatternTask, DjangoTask)


@pytest.mark.django_db(transaction=True)
def test_delay_on_commit_refuses_now_and_publishes_after_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_observers", ())
    task = declared(body, operation=lambda order_id: {1: "one"}[order_id])
    with transaction.atomic():
        with pytest.raises(ValueError, match="failed"):
            task.delay_on_commit(2)
        task.delay_on_commit(1)
        assert queued(task.app) == 0
    assert queued(task.app) == 1


def queued(app: Celery) -> int:
    with app.connection() as connection:
        return int(connection.SimpleQueue(app.conf.task_default_queue).qsize())


def test_check_says_what_the_pattern_does_not_inherit() -> None:
    app = Celery("final", set_as_current=False, task_cls=ProjectTask)
    task = app.task(base=DedupLock, name="final.task", shared=False)(body)
    app.finalize()
    assert any("W015" in said and "final.task" in said and "tenant" in said for said in warnings_of(task))
    combined = type("Mine", (DedupLock, ProjectTask), {"abstract": True})
    app = Celery("final", set_as_current=False, task_cls=ProjectTask)
    task = app.task(base=combined, name="final.task", shared=False)(body)
    app.finalize()
    assert not any("final.task" in said for said in warnings_of(task))


# -- unknown and impossible options ----------------------------------------------------------------------------------------


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"opertion": body}, "'operation'"), ({"max_attempt": 3}, "'max_attempts'"), ({"acks_lat": True}, "'acks_late'"),
    ({"book": "shop"}, "'books'"), ({"autoretry_fro": (OSError,)}, "'autoretry_for'"), ({"colour": "red"}, "a base class"),
    ({"books": 5}, "one word"), ({"books": "no pe"}, "one word"), ({"max_retries": "3"}, "a whole number"),
    ({"rate_limit": "often"}, "'100/m'"), ({"time_limit": -1}, "seconds"),
    ({"soft_time_limit": 60, "time_limit": 60}, "not below"),
    ({"serializer": "nope"}, "serializer"), ({"queue": 5}, "queue"), ({"using": "defualt"}, "'default'"),
    ({"default_retry_delay": "soon"}, "seconds"), ({"ignore_result": "no"}, "True or False"), ({"throws": OSError}, "a tuple"),
    ({"operation": lambda ordre_id: "x"}, "'order_id'"), ({"operation": lambda self, order_id: "x"}, "'self'"),
]  # fmt: skip


@pytest.mark.parametrize("base", PATTERNS, ids=ident)
@pytest.mark.parametrize(
    ("options", "said"), IMPOSSIBLE, ids=lambda value: "" if isinstance(value, str) else next(iter(value))
)
def test_pattern_unknown_or_impossible_option_is_refused_in_each_spelling(base: Any, options: Any, said: str) -> None:
    with pytest.raises(ContradictoryDeclaration, match=said):
        declared(body, base, **options)
    if "colour" not in options:
        with pytest.raises(ContradictoryDeclaration, match=said):
            type("Mine", (base,), {"run": staticmethod(body), **options})
    if "operation" not in options:
        with pytest.raises(ContradictoryDeclaration, match=said):
            base.task(name="final.never", **options)


def test_attribute_of_a_base_class_is_an_option() -> None:
    class Tenant:
        colour = None

    class Mine(AcksLate, Tenant):
        abstract = True

    assert declared(body, Mine, colour="red").colour == "red"
    type("Other", (AcksLate,), {"colour": "red", "run": staticmethod(body)})


# -- inside a transaction ---------------------------------------------------------------------------------------------------


def said_by(logger: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages of this logger alone: the ledger's thread may log at any moment."""
    return [record.getMessage() for record in caplog.records if record.name == logger]


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_observers", ())
    monkeypatch.setattr(transactions, "_reported", set())


@pytest.mark.usefixtures("published")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("base", [None, *PATTERNS], ids=ident)
def test_job_published_in_a_transaction_is_named_once_a_place(base: Any, caplog: pytest.LogCaptureFixture) -> None:
    task = declared(body, base)
    publishers: list[Callable[[], Any]] = [
        lambda: task.delay(1), lambda: task.s(1).delay(), lambda: chain(task.s(), task.si()).delay(),
        lambda: group(task.s()).delay(), lambda: task.app.send_task("final.task"),
    ]  # fmt: skip
    with caplog.at_level(logging.WARNING, "tasks_demo.patterns.transactions"):
        for publish in publishers:
            publish()
        assert said_by("tasks_demo.patterns.transactions", caplog) == []
        with transaction.atomic():
            for _ in range(3):
                for publish in publishers:
                    publish()
    lines = {publish.__code__.co_firstlineno for publish in publishers}
    messages = said_by("tasks_demo.patterns.transactions", caplog)
    assert len(messages) == len(lines)
    for line in lines:
        assert any(f"final.task is published at {__file__}:{line}" in said for said in messages)
    assert all("delay_on_commit" in said and "outbox.enqueue" in said for said in messages)


@pytest.mark.usefixtures("published")
@pytest.mark.django_db(transaction=True)
def test_publish_in_transaction_setting_raises_or_is_silent(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    task = declared(body)
    settings.TASKS_DEMO_PUBLISH_IN_TRANSACTION = "error"
    with transaction.atomic(), pytest.raises(PublishedInTransaction, match=f"{__file__}.*Nothing was published"):
        task.delay(1)
    assert queued(task.app) == 0
    settings.TASKS_DEMO_PUBLISH_IN_TRANSACTION = "off"
    with transaction.atomic():
        task.delay(1)
    assert (queued(task.app), said_by("tasks_demo.patterns.transactions", caplog)) == (1, [])


@pytest.mark.usefixtures("published")
@pytest.mark.django_db
def test_transaction_around_a_test_is_none(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "tasks_demo.patterns.transactions")
    task = declared(body)
    task.delay(1)
    assert "is published at" not in caplog.text
    with transaction.atomic():
        task.delay(1)
    assert caplog.text.count("is published at") == 1
