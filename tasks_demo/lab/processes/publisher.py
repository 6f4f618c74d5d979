"""A web request of the lab: it commits an order, and publishes its job as the pattern's users would.

Run in a process of its own, forked from the template, so that the nemesis can kill it between the two.
"""

from __future__ import annotations

from typing import Any

from django.db import router, transaction

from tasks_demo import outbox
from tasks_demo.demo.shop.models import Order
from tasks_demo.demo.tasks import CHARGES
from tasks_demo.lab.processes.probe import Probe


def publish_once(job: dict[str, Any], probe: Probe) -> int:
    """Take one order; ``job``: pattern, task_id, kwargs, options, publisher. Returns the exit code, if it lives that long."""
    task, kwargs = CHARGES[job["pattern"]], job["kwargs"]
    using = router.db_for_write(Order)
    with transaction.atomic(using=using):
        Order.objects.create(task_id=job["task_id"], customer=kwargs["customer"], amount=kwargs["amount"])
        transaction.on_commit(
            lambda: probe.say("at", role="publisher", task_id=job["task_id"], point="committed", wait=True), using=using
        )
        if job["publisher"] == "outbox":
            outbox.enqueue(task, kwargs=kwargs, task_id=job["task_id"], using=using, **job["options"])
        else:
            transaction.on_commit(
                lambda: task.apply_async(kwargs=kwargs, task_id=job["task_id"], ignore_result=True), using=using
            )
    return 0
