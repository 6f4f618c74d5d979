"""The bookshop's payments as books, as its owner would declare them."""

from __future__ import annotations

from tasks_demo.ledger import ModelBooks


class Payments(ModelBooks):
    """One effect per payment; a task's operation is the number of its order."""

    model, operation, at = "orders.Payment", "order_id", None
