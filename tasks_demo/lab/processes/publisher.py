"""A web request of the lab: it commits an order, and publishes its job as the pattern's users would.

Run in a process of its own, forked from the template, so that the nemesis can kill it between the two.
"""

from __future__ import annotations

from typing import Any

from django.db import router, transaction

from tasks_demo.demo.shop.models import Order
from tasks_demo.demo.shop.orders import place_order
from tasks_demo.demo.tasks import CHARGES
from tasks_demo.lab.processes.probe import Probe


def publish_once(job: dict[str, Any], probe: Probe) -> int:
    """Take one order; ``job``: pattern, task_id, kwargs, options, publisher. Returns the exit code, if it lives that long."""
    using, through_outbox = router.db_for_write(Order), job["publisher"] == "outbox"
    with transaction.atomic(using=using):
        transaction.on_commit(
            lambda: probe.say("at", role="publisher", task_id=job["task_id"], point="committed", wait=True), using=using
        )
        place_order(
            CHARGES[job["pattern"]],
            job["kwargs"],
            task_id=job["task_id"],
            through_outbox=through_outbox,
            **(job["options"] if through_outbox else {"ignore_result": True}),
        )
    return 0
