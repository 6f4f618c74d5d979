"""What the lab asks after an experiment: ``manage.py experiment --effects orders.checks:payments``."""

from __future__ import annotations

from orders.models import Payment


def payments(order_id: str, cents: int = 100) -> int:
    """Return how often an order was charged. It gets the arguments of the job."""
    return Payment.objects.filter(order_id=order_id).count()
