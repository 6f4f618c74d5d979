"""The demo's books, as the ledger reads them: the shop's bookings and the bank's debits."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from tasks_demo.demo.bank.client import BankClient
from tasks_demo.demo.conf import settings
from tasks_demo.demo.shop.models import Booking, Identity
from tasks_demo.ledger.books import Books, Effect, ModelBooks


class Bookings(ModelBooks):
    """The shop's bookings."""

    model = Booking
    task_id = "task_id"
    at = "created_at"

    def identity(self) -> str:
        """Return the identity of the shop's database, which is created on first use."""
        found, _ = Identity.objects.get_or_create(pk=1, defaults={"identity": uuid.uuid4().hex[:16]})
        return found.identity

    def effects(self, after: int) -> Iterator[Effect]:
        for row in Booking.objects.filter(pk__gt=after).order_by("pk").iterator(chunk_size=500):
            at = row.created_at.timestamp()
            yield Effect(row.pk, row.operation, row.task_id, at, {"amount": row.amount, "account": row.customer})


class Bank(Books):
    """The bank's debits, read over HTTP. Their numbers become visible in order."""

    def __init__(self, client: BankClient | None = None) -> None:
        self._client = client

    def _bank(self) -> BankClient:
        return self._client or BankClient(settings.BANK_URL, settings.BANK_TIMEOUT_SECONDS)

    def identity(self) -> str:
        return self._bank().identity()

    def resume(self, number: int, snapshot: str) -> int:
        return number

    def effects(self, after: int) -> Iterator[Effect]:
        for debit in self._bank().debits(after=after):
            detail = {"amount": debit.amount, "account": debit.account}
            yield Effect(debit.id, debit.reference, debit.source, debit.created_at, detail)
