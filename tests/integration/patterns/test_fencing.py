"""Fenced writes in a database: a holder that lost its lease while it slept writes nothing more."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from django.db import router, transaction

from tasks_demo.core.exceptions import Fenced, LeaseLost, NoLease
from tasks_demo.core.lifecycle import Point, Reached, Subject, about, ignore, observe
from tasks_demo.demo.shop.models import Booking
from tasks_demo.leases.heartbeat import Lease
from tasks_demo.leases.protocol import Claimed
from tasks_demo.leases.redis_client import connect
from tasks_demo.leases.redis_store import RedisLeaseStore
from tasks_demo.patterns.dedup_lock import _lease
from tasks_demo.patterns.fencing import fenced
from tasks_demo.records.models import Fence
from tests.support import until

pytestmark = pytest.mark.django_db(databases="__all__", transaction=True)


@pytest.fixture
def store(redis_url: str) -> RedisLeaseStore:
    """Leases long enough for a busy machine."""
    return RedisLeaseStore(connect(redis_url, 5.0), prefix="fencing:", lease_seconds=30, retention_seconds=60)


@pytest.fixture
def brief(redis_url: str) -> RedisLeaseStore:
    """A store over the same records whose leases end at once."""
    return RedisLeaseStore(connect(redis_url, 5.0), prefix="fencing:", lease_seconds=0.2, retention_seconds=60)


def claim(store: RedisLeaseStore, operation: str) -> Claimed:
    """Claim as soon as the earlier lease has ended."""
    reply = until(lambda: (got := store.claim(operation, "d")) and isinstance(got, Claimed) and got, "the lease", 10)
    assert isinstance(reply, Claimed)
    return reply


@contextmanager
def body(store: RedisLeaseStore, claimed: Claimed, *, slept: bool = False) -> Iterator[None]:
    """Run inside the body of a task. ``slept``: the machine was suspended, and its monotonic clock stopped with it."""
    held = Lease(store, replace(claimed, deadline=math.inf) if slept else claimed, cap_seconds=math.inf)
    token = _lease.set(held)
    try:
        with about(Subject("t", claimed.operation, "dedup_lock")):
            yield
    finally:
        _lease.reset(token)


def book(operation: str, amount: int) -> None:
    Booking.objects.create(operation=operation, task_id="t", customer="c", amount=amount)


def amounts(operation: str) -> list[int]:
    return list(Booking.objects.filter(operation=operation).order_by("pk").values_list("amount", flat=True))


def test_fenced_lets_the_holder_write_repeatedly(store: RedisLeaseStore) -> None:
    operation = str(uuid.uuid4())
    with body(store, claim(store, operation)):
        for amount in (1, 2):
            with fenced():
                book(operation, amount)
    assert amounts(operation) == [1, 2]


def test_fenced_refuses_a_holder_that_was_overtaken_while_asleep(
    store: RedisLeaseStore, brief: RedisLeaseStore
) -> None:
    operation, seen = str(uuid.uuid4()), []

    def watch(event: Reached) -> None:
        seen.append((event.point, event.detail))

    first = claim(brief, operation)
    second = claim(store, operation)
    assert second.fence > first.fence
    with body(store, second), fenced():
        book(operation, 2)
    observe(watch)
    try:
        with body(store, first, slept=True), pytest.raises(Fenced, match="later holder"), fenced():
            book(operation, 1)
    finally:
        ignore(watch)
    assert amounts(operation) == [2]
    assert seen == [(Point.FENCED, {"fence": first.fence})]
    assert Fence.objects.get(pk=operation).token == second.fence


def test_fenced_rollback_gives_the_fence_back(store: RedisLeaseStore, brief: RedisLeaseStore) -> None:
    operation = str(uuid.uuid4())
    first = claim(brief, operation)
    second = claim(store, operation)
    with body(store, second), fenced():
        book(operation, 2)
        transaction.set_rollback(True, using=router.db_for_write(Fence))
    with body(store, first, slept=True), fenced():
        book(operation, 1)
    assert amounts(operation) == [1], "nobody with a higher fence has written"


def test_fenced_lease_that_is_known_to_be_lost_is_not_even_tried(brief: RedisLeaseStore) -> None:
    operation = str(uuid.uuid4())
    held = claim(brief, operation)
    until(lambda: time.monotonic() > held.deadline, "the end of the lease")
    with body(brief, held), pytest.raises(LeaseLost), fenced():
        book(operation, 1)
    assert amounts(operation) == []
    assert not Fence.objects.filter(pk=operation).exists()


def test_fenced_outside_a_body_there_is_nothing_to_fence_with() -> None:
    with pytest.raises(NoLease, match="inside the body"), fenced():
        pass


def test_fenced_operations_do_not_fence_each_other(store: RedisLeaseStore, brief: RedisLeaseStore) -> None:
    one, other = str(uuid.uuid4()), str(uuid.uuid4())
    early: dict[str, Any] = {name: claim(brief, name) for name in (one, other)}
    with body(store, claim(store, one)), fenced():
        book(one, 2)
    with body(store, early[other], slept=True), fenced(using=router.db_for_write(Fence)):
        book(other, 1)
    assert amounts(other) == [1]
