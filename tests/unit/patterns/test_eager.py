"""Eager mode and direct calls, in every pattern, without any service: what a team's own unit tests do first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, current_app
from django.db import transaction
from pytest_django import Settings as DjangoSettings

from tasks_demo.core.exceptions import InvalidSetting, NoLease, NothingToRequeue, OutboxRefused, TransactionOpen
from tasks_demo.leases.memory_store import MEMORY
from tasks_demo.leases.stores import lease_place
from tasks_demo.outbox import Outbox
from tasks_demo.patterns import AcksEarly, AcksLate, ClaimFirst, DedupLock, Inbox, lease, transactions
from tasks_demo.patterns.fencing import fenced
from tasks_demo.records.models import Fence

PATTERNS = (AcksEarly, ClaimFirst, AcksLate, DedupLock, Inbox, Outbox)
NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def app() -> Iterator[Celery]:
    """A separate app that runs everything eagerly and has no broker."""
    app = Celery("eager", set_as_current=False, broker=NOWHERE)
    app.conf.task_always_eager = True
    yield app
    app.close()


def declared(app: Celery, pattern: Any, **options: Any) -> tuple[Any, list[Any]]:
    """A task of this pattern, and the arguments of each call of its body."""
    ran: list[Any] = []

    @app.task(shared=False, base=pattern, name=f"eager.{pattern.pattern}", **options)
    def body(*args: Any) -> str:
        ran.append(args)
        return f"done {args}"

    return body, ran


@pytest.mark.parametrize("url", ["", NOWHERE], ids=["unset", "down"])
@pytest.mark.parametrize("propagates", [True, False])
def test_eager_lock_that_does_not_answer_is_an_error_at_once_and_not_a_recursion(
    app: Celery, settings: DjangoSettings, url: str, propagates: bool
) -> None:
    settings.TASKS_DEMO_REDIS_URL = url
    app.conf.task_eager_propagates = propagates
    charge, ran = declared(app, DedupLock)
    if propagates:
        with pytest.raises(NothingToRequeue, match=r"tasks_demo\.testing"):
            charge.delay(17)
    else:
        result = charge.delay(17)
        assert (result.state, type(result.result)) == ("FAILURE", NothingToRequeue)
    assert ran == []


@pytest.mark.django_db(databases="__all__")
@pytest.mark.parametrize("pattern", [ClaimFirst, Inbox], ids=lambda pattern: pattern.pattern)
def test_eager_table_that_does_not_answer_is_an_error_at_once(app: Celery, pattern: Any) -> None:
    task, ran = declared(app, pattern, using="bank")  # the tables are not in that database
    result = task.delay(17)
    assert (result.state, type(result.result), ran) == ("FAILURE", NothingToRequeue, [])


@pytest.mark.django_db(databases="__all__")
@pytest.mark.parametrize("pattern", [ClaimFirst, Inbox], ids=lambda pattern: pattern.pattern)
def test_eager_transaction_around_a_test_is_not_an_open_transaction(app: Celery, pattern: Any) -> None:
    task, ran = declared(app, pattern, operation=lambda order: f"order {order}")
    assert task.delay(17).state == "SUCCESS"
    assert task.delay(17).state == "SUCCESS"
    assert ran == [(17,)]


@pytest.mark.django_db(databases="__all__")
@pytest.mark.parametrize("pattern", [ClaimFirst, Inbox], ids=lambda pattern: pattern.pattern)
def test_eager_transaction_of_the_code_under_test_is_open_as_in_production(app: Celery, pattern: Any) -> None:
    from django.db import router

    from tasks_demo.records.models import Claim

    task, ran = declared(app, pattern)
    with transaction.atomic(router.db_for_write(Claim)):
        result = task.delay(17)
    assert (type(result.result), ran) == (TransactionOpen, [])


@pytest.mark.django_db(transaction=True, databases="__all__")
def test_eager_autocommit_that_was_switched_off_by_hand_is_an_open_transaction() -> None:
    assert not transactions.transaction_open("default")
    transaction.set_autocommit(False, "default")
    try:
        assert transactions.transaction_open("default")
    finally:
        transaction.rollback("default")
        transaction.set_autocommit(True, "default")


@pytest.mark.django_db(databases="__all__")
def test_eager_outbox_refuses_the_wrong_transaction_inside_a_test_too(app: Celery) -> None:
    from django.db import router

    from tasks_demo.outbox import enqueue
    from tasks_demo.records.models import OutboxMessage

    alias = router.db_for_write(OutboxMessage)
    other = next(name for name in ("default", "bank") if name != alias)
    task, _ = declared(app, Outbox)
    with transaction.atomic(other), pytest.raises(OutboxRefused, match="A transaction is open on"):
        enqueue(task.name, external=True)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.pattern)
def test_eager_direct_call_runs_the_body_and_nothing_else(app: Celery, settings: DjangoSettings, pattern: Any) -> None:
    settings.TASKS_DEMO_REDIS_URL = ""
    task, ran = declared(app, pattern)
    assert task(17, 5) == "done (17, 5)"
    assert ran == [(17, 5)]


def test_eager_documented_check_passes_in_a_direct_call(app: Celery) -> None:
    @app.task(shared=False, base=DedupLock, bind=True, name="eager.documented")
    def charge(self: Any, order_id: int) -> tuple[int, bool]:
        lease().check()
        return lease().fence, lease().lost

    assert charge(17) == (0, False)
    with pytest.raises(NoLease):
        lease()


def test_eager_body_called_inside_another_is_under_its_lease(app: Celery) -> None:
    @app.task(shared=False, base=DedupLock, name="eager.inner")
    def inner() -> object:
        return lease()

    @app.task(shared=False, base=DedupLock, name="eager.outer")
    def outer() -> bool:
        return lease() is inner()

    assert outer()


def test_eager_other_threads_have_no_lease_in_a_direct_call_either(app: Celery) -> None:
    seen: list[type] = []

    def elsewhere() -> None:
        try:
            lease()
        except NoLease as error:
            seen.append(type(error))

    @app.task(shared=False, base=DedupLock, name="eager.threads")
    def body() -> None:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    body()
    assert seen == [NoLease]


@pytest.mark.django_db(databases="__all__")
def test_eager_fenced_writes_work_in_a_direct_call_and_leave_no_fence(app: Celery) -> None:
    @app.task(shared=False, base=DedupLock, name="eager.fenced")
    def body() -> str:
        with fenced():
            return "written"

    assert body() == "written"
    assert not Fence.objects.exists()


def test_eager_leases_in_memory_are_for_tests_and_eager_mode_only(
    app: Celery, settings: DjangoSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.TASKS_DEMO_REDIS_URL = "memory://"
    settings.TASKS_DEMO_KEY_PREFIX = "eager:"
    charge, ran = declared(app, DedupLock, operation=lambda order: f"order {order}")
    try:
        assert [charge.delay(17).get(), charge.delay(17).get()] == ["done (17,)"] * 2
        assert ran == [(17,)]
        # Not Django's own flag, which would enable the ledger in this process; its thread would then query the database.
        monkeypatch.setattr("tasks_demo.leases.stores.in_tests", lambda: False)
        with pytest.raises(InvalidSetting, match="two workers would run"):
            lease_place(1.0)
        current_app.conf.task_always_eager = True
        assert lease_place(1.0) is MEMORY
    finally:
        current_app.conf.task_always_eager = False
        MEMORY.forget("eager:")


def test_eager_effect_that_a_body_records_asks_no_database_in_a_team_s_test(settings: DjangoSettings) -> None:
    from tasks_demo.ledger import record_effect

    settings.TASKS_DEMO_LEDGER_IN_TESTS = False
    assert not record_effect("order 17")
