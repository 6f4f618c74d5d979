"""Place an order: commit the order and the job that charges for it in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import router, transaction

from tasks_demo import outbox
from tasks_demo.demo.shop.models import Order


def place_order(
    task: Any, kwargs: Mapping[str, Any], *, task_id: str, through_outbox: bool = True, **options: Any
) -> None:
    """Commit an order together with its job, as a web request would. Does not connect to the broker.

    With ``through_outbox=False`` the job is published after the commit: a process that dies in between leaves an order
    without a job. ``kwargs`` are those of the demo's tasks (``customer``, ``amount`` in cents), ``options`` those of
    ``apply_async``.
    """
    using = router.db_for_write(Order)
    with transaction.atomic(using=using):
        Order.objects.create(task_id=task_id, customer=kwargs["customer"], amount=kwargs["amount"])
        if through_outbox:
            outbox.enqueue(task, kwargs=kwargs, task_id=task_id, using=using, **options)
        else:
            transaction.on_commit(lambda: task.apply_async(kwargs=kwargs, task_id=task_id, **options), using=using)
