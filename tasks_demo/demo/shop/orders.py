"""Place an order: commit the order and the job that charges for it in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import router, transaction

from tasks_demo import outbox
from tasks_demo.demo.shop.models import Order


def place_order(task: Any, kwargs: Mapping[str, Any], *, task_id: str, **options: Any) -> None:
    """Commit an order together with its job, as a web request would. Does not connect to the broker.

    ``kwargs`` are those of the demo's tasks (``customer``, ``amount`` in cents), ``options`` those of
    ``apply_async``.
    """
    using = router.db_for_write(Order)
    with transaction.atomic(using=using):
        Order.objects.create(task_id=task_id, customer=kwargs["customer"], amount=kwargs["amount"])
        outbox.enqueue(task, kwargs=kwargs, task_id=task_id, using=using, **options)
