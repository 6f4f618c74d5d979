"""Charging: keys, fences, what the database enforces, and what happens when the database fails."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import IntegrityError, connections, transaction
from django.test import Client

from tasks_demo.demo.bank import charging
from tasks_demo.demo.bank.models import Debit, FencingToken, IdempotencyKey
from tasks_demo.demo.bank.problems import InFlight, KeyReused, StaleFence

ORDER = charging.DebitRequest("alice", 250, "order-17", "task-1")
in_bank = pytest.mark.django_db(databases=["default", "bank"])
in_committed_bank = pytest.mark.django_db(databases=["default", "bank"], transaction=True)


@in_bank
@pytest.mark.parametrize("amount", [0, -5])
def test_debit_amount_below_one_is_refused_by_the_database(amount: int) -> None:
    with pytest.raises(IntegrityError), transaction.atomic(using="bank"):
        Debit.objects.create(account="alice", amount=amount, reference="r")


@in_bank
def test_key_second_debit_is_refused_by_the_database() -> None:
    charging.charge(ORDER, "k", "f")
    with pytest.raises(IntegrityError), transaction.atomic(using="bank"):
        Debit.objects.create(account="alice", amount=1, reference="r", idempotency=IdempotencyKey.objects.get())


@in_bank
@pytest.mark.parametrize("owner", ["a bank that died", charging.OWNER], ids=["died", "this one"])
def test_key_left_in_flight_is_taken_over(owner: str) -> None:
    IdempotencyKey.objects.create(key="k", fingerprint="f", owner=owner)
    debit, replayed = charging.charge(ORDER, "k", "f")
    assert not replayed
    assert charging.charge(ORDER, "k", "f") == (debit, True)
    assert Debit.objects.count() == 1


@in_bank
def test_key_left_in_flight_keeps_its_body() -> None:
    IdempotencyKey.objects.create(key="k", fingerprint="f", owner="a bank that died")
    with pytest.raises(KeyReused):
        charging.charge(ORDER, "k", "other")
    assert not Debit.objects.exists()


@in_bank
def test_key_that_another_thread_works_on_is_in_flight() -> None:
    with charging._only_thread("k", "f"):
        with pytest.raises(InFlight):
            charging.charge(ORDER, "k", "f")
        with pytest.raises(KeyReused):
            charging.charge(ORDER, "k", "other")
    assert not charging.charge(ORDER, "k", "f")[1]


@in_bank
def test_key_that_is_only_being_replayed_is_not_in_flight() -> None:
    charging.charge(ORDER, "k", "f")
    with charging._only_thread("k", "f"):
        assert charging.charge(ORDER, "k", "f")[1]


def under(fence: int, reference: str = "order-17") -> charging.DebitRequest:
    return charging.DebitRequest("alice", 250, reference, fence=fence)


@in_bank
@pytest.mark.parametrize("key", [None, "another"])
def test_fence_that_is_lower_is_refused_and_leaves_nothing(key: str | None) -> None:
    charging.charge(under(5), "k", "f")
    with pytest.raises(StaleFence):
        charging.charge(under(4), key, "f")
    assert Debit.objects.count() == 1
    assert [known.key for known in IdempotencyKey.objects.all()] == ["k"]


@in_bank
def test_fence_that_is_equal_or_higher_passes() -> None:
    for fence in (5, 5, 6):
        charging.charge(under(fence))
    assert Debit.objects.count() == 3
    assert FencingToken.objects.get().highest == 6


@in_bank
def test_fence_is_per_reference() -> None:
    charging.charge(under(5))
    charging.charge(under(1, "order-18"))
    assert dict(FencingToken.objects.values_list("reference", "highest")) == {"order-17": 5, "order-18": 1}


@in_bank
def test_fence_is_not_checked_without_a_token() -> None:
    charging.charge(under(5))
    charging.charge(ORDER)
    assert Debit.objects.count() == 2


@in_bank
def test_fence_that_is_stale_gets_no_replay() -> None:
    charging.charge(under(5), "k", "f")
    assert charging.charge(under(6), "k", "f")[1]
    with pytest.raises(StaleFence):
        charging.charge(under(5), "k", "f")
    assert FencingToken.objects.get().highest == 6, "a replay under a higher token must be remembered too"


@in_bank
def test_fence_that_is_stale_is_refused_before_anything_else() -> None:
    charging.charge(under(5), "k", "f")
    with pytest.raises(StaleFence):
        charging.charge(under(4), "k", "other")
    with charging._only_thread("busy", "f"), pytest.raises(StaleFence):
        charging.charge(under(4), "busy", "f")


@in_bank
def test_fence_does_not_advance_with_a_refused_request() -> None:
    """Otherwise a bank slower than its callers' timeout would never complete a debit: each retry would fence off the last."""
    charging.charge(under(5), "k", "f")
    with pytest.raises(KeyReused):
        charging.charge(under(9), "k", "other")
    with charging._only_thread("busy", "f"), pytest.raises(InFlight):
        charging.charge(under(9), "busy", "f")
    assert FencingToken.objects.get().highest == 5


@in_bank
@pytest.mark.parametrize("key", [None, "slow"])
def test_fence_that_is_overtaken_inside_the_bank_is_refused(monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    """The token is checked again in the transaction of the debit."""

    def overtaken(reference: str) -> None:
        monkeypatch.undo()
        charging.charge(under(6), "other", "f")

    monkeypatch.setattr(charging.fault_injection, "slow_down", overtaken)
    with pytest.raises(StaleFence):
        charging.charge(under(5), key, "f")
    assert Debit.objects.get().idempotency.key == "other"
    assert [known.key for known in IdempotencyKey.objects.all()] == ["other"]


@in_bank
@pytest.mark.parametrize("token", [0, -1])
def test_fence_below_one_is_refused_by_the_database(token: int) -> None:
    with pytest.raises(IntegrityError), transaction.atomic(using="bank"):
        FencingToken.objects.create(reference="r", highest=token)


def post(key: str | None) -> tuple[int, dict[str, Any]]:
    body = json.dumps({"account": "alice", "amount": 250, "reference": "order-17"})
    headers = {"Idempotency-Key": f'"{key}"'} if key else {}
    response = Client().post("/debits", body, content_type="application/json", headers=headers)
    return response.status_code, json.loads(response.content)


@pytest.fixture
def _as_served(settings: Any) -> None:
    settings.ROOT_URLCONF = "tasks_demo.demo.bank.views"
    settings.MIDDLEWARE = []


def run(statement: str) -> Any:
    with connections["bank"].cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone() if cursor.description else None


@contextmanager
def locked() -> Iterator[None]:
    path = str(connections["bank"].settings_dict["NAME"])
    run("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(path)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
    finally:
        other.close()
        connections["bank"].close()


@contextmanager
def read_only() -> Iterator[None]:
    sqlite = connections["bank"].vendor == "sqlite"
    run("PRAGMA query_only = 1" if sqlite else "SET default_transaction_read_only = on")
    try:
        yield
    finally:
        connections["bank"].close()


@in_committed_bank
@pytest.mark.usefixtures("_as_served")
@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("trouble", [locked, read_only])
def test_database_that_cannot_be_written_is_503_and_nothing_is_charged(trouble: Any, key: str | None) -> None:
    if connections["bank"].vendor != "sqlite" and trouble is locked:
        pytest.skip("a whole-database lock is a matter of SQLite")
    connections["bank"].ensure_connection()
    with trouble():
        status, problem = post(key)
    assert (status, problem["charged"]) == (503, False)
    assert "nothing was charged" in problem["detail"]
    assert not Debit.objects.exists()
    assert post(key)[0] == 201
    assert Debit.objects.count() == 1


@in_committed_bank
@pytest.mark.usefixtures("_as_served")
def test_database_on_a_full_disk_is_503_and_the_key_is_not_lost() -> None:
    if connections["bank"].vendor != "sqlite":
        pytest.skip("PostgreSQL cannot be told to be full")
    run(f"PRAGMA max_page_count = {run('PRAGMA page_count')[0]}")
    try:
        booked = 0
        while (answer := post(f"k-{booked}"))[0] == 201:
            booked += 1
            assert booked < 2000, "the limit of pages does not work"
    finally:
        connections["bank"].close()
    assert (answer[0], answer[1]["charged"]) == (503, False)
    assert "full" in answer[1]["detail"]
    assert Debit.objects.count() == booked
    assert post(f"k-{booked}")[0] == 201
    assert Debit.objects.count() == booked + 1


@in_bank
def test_database_holds_the_banks_tables_only() -> None:
    tables = set(connections["bank"].introspection.table_names())
    assert tables == {f"bank_{name}" for name in ("debit", "fencingtoken", "idempotencykey", "identity")} | {
        "django_migrations"
    }
