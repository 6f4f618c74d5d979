"""Charging: keys, fences, what the database enforces, and what happens when the database fails."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import msgspec
import pytest
from django.db import IntegrityError, connections, transaction
from django.test import Client

from tasks_demo.demo.bank import charging
from tasks_demo.demo.bank.incoming import DebitRequest, Headers
from tasks_demo.demo.bank.models import Debit, FencingToken
from tasks_demo.demo.bank.problems import InFlight, KeyReused, StaleFence

ORDER = DebitRequest("alice", 250, "order-17")
OTHER_AMOUNT = DebitRequest("alice", 251, "order-17")
in_bank = pytest.mark.django_db(databases=["default", "bank"])
in_committed_bank = pytest.mark.django_db(databases=["default", "bank"], transaction=True)


def charge(asked: DebitRequest = ORDER, key: str | None = None, fence: int | None = None) -> tuple[Debit, bool]:
    return charging.charge(asked, Headers(key, fence))


def elsewhere(key: str, asked: DebitRequest = ORDER) -> AbstractContextManager[bool]:
    """Another thread works on the key; its request is equal, but not the same object."""
    return charging._working_on(key, msgspec.structs.replace(asked))


@in_bank
@pytest.mark.parametrize("amount", [0, -5])
def test_debit_amount_below_one_is_refused_by_the_database(amount: int) -> None:
    with pytest.raises(IntegrityError), transaction.atomic(using="bank"):
        Debit.objects.create(account="alice", amount=amount, reference="r")


@in_bank
def test_key_that_is_only_being_replayed_is_not_in_flight() -> None:
    charge(key="k")
    with elsewhere("k"):
        assert charge(key="k")[1]


@in_bank
def test_fence_that_is_equal_or_higher_passes() -> None:
    for fence in (5, 5, 6):
        charge(fence=fence)
    assert Debit.objects.count() == 3
    assert FencingToken.objects.get().highest == 6


@in_bank
def test_fence_is_per_reference() -> None:
    charge(fence=5)
    charge(DebitRequest("alice", 250, "order-18"), fence=1)
    assert dict(FencingToken.objects.values_list("reference", "highest")) == {"order-17": 5, "order-18": 1}


@in_bank
def test_fence_is_not_checked_without_a_token() -> None:
    charge(fence=5)
    charge()
    assert Debit.objects.count() == 2


@in_bank
def test_fence_that_is_stale_gets_no_replay() -> None:
    charge(key="k", fence=5)
    assert charge(key="k", fence=6)[1]
    with pytest.raises(StaleFence):
        charge(key="k", fence=5)
    assert FencingToken.objects.get().highest == 6, "a replay under a higher token must be remembered too"


@in_bank
def test_fence_that_is_stale_is_refused_before_anything_else() -> None:
    charge(key="k", fence=5)
    with pytest.raises(StaleFence):
        charge(OTHER_AMOUNT, "k", 4)
    with elsewhere("busy"), pytest.raises(StaleFence):
        charge(key="busy", fence=4)


@in_bank
def test_fence_does_not_advance_with_a_refused_request() -> None:
    """Otherwise a bank slower than its callers' timeout would never complete a debit: each retry would fence off the last."""
    charge(key="k", fence=5)
    with pytest.raises(KeyReused):
        charge(OTHER_AMOUNT, "k", 9)
    with elsewhere("busy"), pytest.raises(InFlight):
        charge(key="busy", fence=9)
    assert FencingToken.objects.get().highest == 5


@in_bank
def test_key_that_another_bank_used_meanwhile_makes_no_second_debit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two banks on one database, by mistake: the database refuses the second debit, and the token is not stored either."""

    def other_bank(reference: str) -> None:
        Debit.objects.create(account="alice", amount=250, reference="order-17", key="k")

    monkeypatch.setattr(charging.fault_injection, "slow_down", other_bank)
    with pytest.raises(InFlight):
        charge(key="k", fence=5)
    assert charge(key="k") == (Debit.objects.get(), True)
    assert not FencingToken.objects.exists()


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
    assert tables == {f"bank_{name}" for name in ("debit", "fencingtoken", "identity")} | {"django_migrations"}
