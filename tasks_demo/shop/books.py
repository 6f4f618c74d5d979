"""The shop's books: its bookings in the order of their numbers, as the ledger reads those of the bank."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from tasks_demo.shop.models import Booking, Books


@dataclass(frozen=True, slots=True)
class Entry:
    """One booking; ``amount`` in cents, ``created_at`` in seconds since the epoch, ``source`` the task ID."""

    id: int
    account: str
    amount: int
    reference: str
    source: str
    created_at: float


def identity() -> str:
    """What tells these books from any others, made once: numbers compare only within one."""
    books, _ = Books.objects.get_or_create(pk=1, defaults={"identity": uuid.uuid4().hex[:16]})
    return books.identity


def bookings(after: int) -> Iterator[Entry]:
    """The bookings with numbers above ``after``."""
    for row in Booking.objects.filter(pk__gt=after).order_by("pk").iterator(chunk_size=500):
        yield Entry(row.pk, row.customer, row.amount, row.operation, row.task_id, row.created_at.timestamp())
