"""``tasks_demo.testing`` in this process: a delivery, a redelivery, a death, a drained outbox, and what each leaves behind.

Over 300 lines: one package, whose functions are tested together.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from celery import current_app
from django.db import router, transaction
from django.db.models.functions import Now
from pytest_django import Settings as DjangoSettings

from tasks_demo.core import lifecycle
from tasks_demo.core.exceptions import DeliveryError, OperationMismatch, PublishedInTransaction
from tasks_demo.leases.memory_store import MEMORY
from tasks_demo.outbox import Outbox, enqueue
from tasks_demo.patterns import AcksLate, ClaimFirst, DedupLock, Inbox
from tasks_demo.records.models import Attempt, OutboxMessage
from tasks_demo.testing import Deliveries, State, deliver, drain_outbox, executions, isolated, redeliver, skip_time

_names = count()
LATE = [AcksLate, Outbox, DedupLock, Inbox]
pytestmark = pytest.mark.django_db(databases="__all__")


@pytest.fixture
def here() -> Iterator[Deliveries]:
    with isolated() as deliveries:
        yield deliveries


@pytest.fixture(autouse=True)
def _tasks_are_gone_afterwards() -> Iterator[None]:
    """Whoever looks at all tasks of the process afterwards must not look for tables in their databases."""
    before = set(current_app.tasks)
    yield
    for name in set(current_app.tasks) - before:
        del current_app.tasks[name]


def declared(pattern: Any, body: Any = None, **options: Any) -> tuple[Any, list[Any]]:
    """A task of this pattern (None: without one), and the arguments of each call of its body."""
    ran: list[Any] = []

    def run(*args: Any) -> Any:
        ran.append(args)
        return body(*args) if body else len(ran)

    if pattern is not None:
        options["base"] = pattern
    return current_app.task(run, shared=False, name=f"testing.{next(_names)}", **options), ran


def test_job_that_is_published_inside_a_transaction_can_be_refused(here: Deliveries, settings: DjangoSettings) -> None:
    settings.TASKS_DEMO_PUBLISH_IN_TRANSACTION = "error"
    task, ran = declared(AcksLate)
    task.delay(1)  # the test's own transaction does not count
    with transaction.atomic(), pytest.raises(PublishedInTransaction, match="Nothing was published"):
        task.delay(2)
    assert ran == [(1,)]


def test_testing_without_isolation_names_set_up() -> None:
    with pytest.raises(RuntimeError, match=r"must call super\(\)\.setUp\(\)"):
        executions("x")


@pytest.mark.parametrize(
    ("pattern", "second", "runs"),
    [
        (None, State.SUCCESS, 2),
        (AcksLate, State.SUCCESS, 2),
        (ClaimFirst, State.SUPPRESSED, 1),
        (DedupLock, State.SUPPRESSED, 1),
        (Inbox, State.SUPPRESSED, 1),
    ],
    ids=lambda value: getattr(value, "pattern", None),
)
@pytest.mark.parametrize("first", ["delay", "deliver"])
def test_testing_second_delivery(here: Deliveries, pattern: Any, second: State, runs: int, first: str) -> None:
    task, ran = declared(pattern)
    task_id = task.delay(17).id if first == "delay" else deliver(task, (17,)).task_id
    again = redeliver(task_id)
    assert (again.state, len(ran), executions(task_id)) == (second, runs, runs)
    assert set(ran) == {(17,)}


def test_message_is_the_same_and_marked_as_redelivered(here: Deliveries) -> None:
    seen: list[Any] = []

    def body(self: Any, order: int, note: str = "") -> None:
        request = self.request
        seen.append((order, note, request.id, request.headers["tenant"], request.delivery_info.get("redelivered")))

    task = current_app.task(body, shared=False, bind=True, name=f"testing.{next(_names)}")
    task.apply_async((17,), {"note": "x"}, task_id="one", headers={"tenant": "a"})
    redeliver("one")
    assert seen == [(17, "x", "one", "a", None), (17, "x", "one", "a", True)]


def test_retry_follows_at_once(here: Deliveries) -> None:
    def body(self: Any, order: int) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=3600)
        return int(self.request.retries)

    task = current_app.task(body, shared=False, bind=True, base=DedupLock, name=f"testing.{next(_names)}")
    done = deliver(task, (17,))
    assert (done.state, done.result, done.executions) == (State.SUCCESS, 2, 3)
    assert redeliver(done.task_id).state is State.SUPPRESSED


def test_deliver_returns_the_error(here: Deliveries) -> None:
    def body(order: int) -> None:
        raise ValueError(order)

    failed = deliver(declared(AcksLate, body)[0], (17,))
    assert (failed.state, failed.result, repr(failed.error)) == (State.FAILURE, None, "ValueError(17)")


def test_deliver_sees_other_arguments_under_one_key(here: Deliveries) -> None:
    task, ran = declared(DedupLock, operation=lambda *_, **__: "one")
    deliver(task, (17,))
    assert isinstance(deliver(task, (18,)).error, OperationMismatch)
    assert len(ran) == 1


@pytest.mark.parametrize("pattern", LATE, ids=lambda pattern: pattern.pattern)
def test_death_leaves_what_a_death_leaves(here: Deliveries, pattern: Any) -> None:
    task, ran = declared(pattern, max_attempts=2)
    killed = deliver(task, (17,), kill="before_body")
    assert (killed.state, killed.executions, ran) == (State.KILLED, 1, [])
    assert Attempt.objects.get(task_id=killed.task_id).count == 1
    skip_time(60)
    assert redeliver(killed.task_id, kill="after_body").state is State.KILLED
    skip_time(60)
    parked = redeliver(killed.task_id)
    assert (parked.state, parked.executions, len(ran)) == (State.PARKED, 0, 1)
    assert "never ended" in parked.why


def test_deliver_defers_what_a_living_worker_holds(here: Deliveries) -> None:
    task, ran = declared(DedupLock)
    killed = deliver(task, (17,), kill="after_body")
    held = redeliver(killed.task_id)
    assert (held.state, held.executions) == (State.DEFERRED, 0)
    assert "held" in held.why
    skip_time(60)
    assert redeliver(killed.task_id).state is State.SUCCESS
    assert len(ran) == 2


@pytest.mark.parametrize("pattern", [ClaimFirst, Inbox], ids=lambda pattern: pattern.pattern)
def test_table_that_is_not_there_is_raised(here: Deliveries, pattern: Any) -> None:
    task, ran = declared(pattern, using="bank")
    with pytest.raises(DeliveryError, match="migrated"):
        deliver(task, (17,))
    assert ran == []


def test_body_is_its_own_again_after_a_death(here: Deliveries) -> None:
    task, _ = declared(AcksLate)
    deliver(task, (17,), kill="before_body")
    assert task.delay(18).get() == 1
    assert "run" not in vars(task)


def test_deliver_names_an_unknown_message_and_an_unknown_kill(here: Deliveries) -> None:
    with pytest.raises(LookupError, match="drain_outbox"):
        redeliver("never")
    wrong: Any = "sometime"
    with pytest.raises(ValueError, match="before_body"):
        deliver(declared(AcksLate)[0], (17,), kill=wrong)


def test_outside_of_a_test_it_says_how_to_switch_it_on() -> None:
    with pytest.raises(RuntimeError, match="DeliveryTestMixin"):
        redeliver("any")


def test_isolated_leaves_nothing(settings: DjangoSettings) -> None:
    task, ran = declared(DedupLock, operation=lambda *_, **__: "one")
    eager, observers, url = current_app.conf.task_always_eager, lifecycle.observers(), settings.TASKS_DEMO_REDIS_URL
    for _ in range(2):
        with isolated():
            task.delay(17)
    assert len(ran) == 2
    assert (current_app.conf.task_always_eager, lifecycle.observers()) == (eager, observers)
    assert url == settings.TASKS_DEMO_REDIS_URL
    assert not [key for key in MEMORY._records if ":test:" in key]


# -- the outbox ---------------------------------------------------------------------------------------------------------------


def alias() -> str:
    return router.db_for_write(OutboxMessage)


def test_drain_outbox_delivers_due_jobs_in_order_and_what_they_enqueue(here: Deliveries) -> None:
    second, ran = declared(Outbox)
    first, _ = declared(Outbox, lambda order: enqueue(second, (order, "follows")))
    with transaction.atomic(alias()):
        ids = [enqueue(first, (number,)) for number in (1, 2)]
    drained = drain_outbox()
    assert [each.task_id for each in drained[:2]] == ids
    assert {each.state for each in drained} == {State.SUCCESS}
    assert ran == [(1, "follows"), (2, "follows")]
    assert drain_outbox() == []
    assert not OutboxMessage.objects.filter(finished_at=None).exists()


@pytest.mark.parametrize("pattern", [None, *LATE, ClaimFirst], ids=lambda value: getattr(value, "pattern", "plain"))
def test_finished_job_of_the_outbox_is_suppressed_when_it_comes_again(here: Deliveries, pattern: Any) -> None:
    task, ran = declared(pattern)
    task_id = enqueue(task, (17,))
    (drained,) = drain_outbox()
    assert [redeliver(task_id).state for _ in range(2)] == [State.SUPPRESSED] * 2
    assert (drained.state, ran, executions(task_id)) == (State.SUCCESS, [(17,)], 1)


@pytest.mark.parametrize("kill", ["before_body", "after_body"])
def test_job_of_the_outbox_whose_worker_died_runs_again_and_then_no_more(here: Deliveries, kill: Any) -> None:
    task, ran = declared(Outbox)
    task_id = enqueue(task, (17,))
    drain_outbox()
    OutboxMessage.objects.filter(task_id=task_id).update(finished_at=None, started_by="", generation=-1)
    assert redeliver(task_id, kill=kill).state is State.KILLED
    assert redeliver(task_id).state is State.SUCCESS
    assert redeliver(task_id).state is State.SUPPRESSED
    assert len(ran) == (2 if kill == "before_body" else 3)


def test_retry_of_the_outbox_runs_and_its_last_copy_is_suppressed(here: Deliveries) -> None:
    def body(self: Any, order: int) -> int:
        ran.append(self.request.retries)
        if self.request.retries < 2:
            raise self.retry(countdown=60)
        return order

    ran: list[int] = []
    task = current_app.task(body, base=Outbox, shared=False, bind=True, name=f"testing.{next(_names)}")
    task_id = enqueue(task, (17,))
    assert [each.result for each in drain_outbox()] == [17]
    assert redeliver(task_id).state is State.SUPPRESSED
    assert ran == [0, 1, 2]


def test_body_that_runs_in_a_test_starts_no_thread_for_its_lease(here: Deliveries) -> None:
    enqueue(declared(Outbox, lambda *_: [t.name for t in threading.enumerate()])[0], (17,))
    (drained,) = drain_outbox()
    assert "outbox-leases" not in drained.result


def test_drain_outbox_delivers_what_is_due_again_without_a_broker(here: Deliveries) -> None:
    task, ran = declared(Outbox)
    task_id = enqueue(task, (17,))
    drain_outbox()
    for copy in ({"finished_at": None, "started_by": "", "generation": -1}, {}):
        OutboxMessage.objects.filter(task_id=task_id).update(due_at=Now(), **copy)
        drain_outbox()
    assert len(ran) == 2


def test_deferred_row_stays_for_a_later_drain(here: Deliveries) -> None:
    task, _ = declared(DedupLock, operation=lambda *_, **__: "one")
    killed = deliver(task, (17,), kill="after_body")
    task_id = enqueue(task, (17,))
    (deferred,) = drain_outbox()
    assert (deferred.state, deferred.task_id) == (State.DEFERRED, task_id)
    assert OutboxMessage.objects.get(task_id=task_id).finished_at is None
    skip_time(60)
    assert redeliver(task_id).state is State.SUCCESS
    assert redeliver(killed.task_id).state is State.SUPPRESSED
    assert OutboxMessage.objects.get(task_id=task_id).finished_at is not None


def test_future_is_delivered_when_it_is_asked_for(here: Deliveries) -> None:
    task, ran = declared(Outbox)
    enqueue(task, (1,), countdown=3600)
    enqueue(task, (2,))
    assert [each.result for each in drain_outbox()] == [1]
    assert [each.result for each in drain_outbox(future=True)] == [2]
    assert ran == [(2,), (1,)]


@pytest.mark.parametrize("propagates", [True, False])
def test_failing_job_is_raised_where_eager_errors_are(here: Deliveries, propagates: bool) -> None:
    def body(order: int) -> None:
        raise ValueError(order)

    enqueue(declared(Outbox, body)[0], (17,))
    current_app.conf.task_eager_propagates = propagates
    try:
        if propagates:
            with pytest.raises(ValueError, match="17"):
                drain_outbox()
        else:
            assert [each.state for each in drain_outbox()] == [State.FAILURE]
    finally:
        current_app.conf.task_eager_propagates = False


@pytest.mark.django_db(transaction=True, databases="__all__")
def test_testing_is_the_same_with_real_commits(here: Deliveries) -> None:
    task, ran = declared(Outbox)
    with transaction.atomic(alias()):
        enqueue(task, (1,))
        transaction.set_rollback(True, alias())
    enqueue(task, (2,))
    assert [each.state for each in drain_outbox()] == [State.SUCCESS]
    assert ran == [(2,)]
    OutboxMessage.objects.all().delete()
