"""The publisher of one job, as a web request would be: commits an order, then publishes its job.

It runs in a process of its own, so that the nemesis can kill it between the two.
"""

from __future__ import annotations

from django.db import router, transaction

from tasks_demo import outbox
from tasks_demo.demo.shop.models import Order
from tasks_demo.demo.tasks import CHARGES
from tasks_demo.lab.processes.failpoints import Failpoints
from tasks_demo.lab.processes.specs import Publication


def publish(job: Publication, failpoints: Failpoints) -> None:
    """Commit the order and publish its job; between the two, wait for the nemesis."""
    task = CHARGES[job.pattern]
    using = router.db_for_write(Order)
    with transaction.atomic(using=using):
        Order.objects.create(task_id=job.task_id, customer=job.kwargs["customer"], amount=job.kwargs["amount"])
        transaction.on_commit(lambda: failpoints.wait_at("publisher", job.task_id, "committed"), using=using)
        if job.publisher == "outbox":
            outbox.enqueue(task, kwargs=job.kwargs, task_id=job.task_id, using=using, headers=job.headers, **job.route)
        else:
            transaction.on_commit(
                lambda: task.apply_async(kwargs=job.kwargs, task_id=job.task_id, ignore_result=True, **job.route),
                using=using,
            )
