"""``place_order`` commits the order and its job together, or neither."""

from __future__ import annotations

import pytest

from tasks_demo.core.exceptions import OutboxRefused
from tasks_demo.demo.shop.models import Order
from tasks_demo.demo.shop.orders import place_order
from tasks_demo.demo.tasks import CHARGES
from tasks_demo.records.models import OutboxMessage

pytestmark = pytest.mark.django_db(databases="__all__")
JOB = {"customer": "alice", "amount": 250}


def test_place_order_commits_the_order_and_its_job() -> None:
    place_order(CHARGES["outbox"], JOB, task_id="t-1")
    assert Order.objects.get().task_id == OutboxMessage.objects.get().task_id == "t-1"


def test_place_order_leaves_no_order_without_its_job() -> None:
    with pytest.raises(OutboxRefused):
        place_order(CHARGES["outbox"], {**JOB, "note": object()}, task_id="t-1")
    assert not Order.objects.exists()
