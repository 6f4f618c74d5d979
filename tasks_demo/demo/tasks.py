"""The demo's tasks: the same charge of a customer, once for every pattern."""

from __future__ import annotations

import os
import time
from functools import cache
from typing import Any

from tasks_demo.core.exceptions import Fenced
from tasks_demo.core.lifecycle import Point, current, reached
from tasks_demo.demo.bank.client import BankClient, BankConflict, BankFenced, BankUnavailable
from tasks_demo.demo.conf import settings
from tasks_demo.demo.shop.models import Booking
from tasks_demo.outbox.enqueue import Outbox
from tasks_demo.patterns import AcksEarly, AcksLate, ClaimFirst, DedupLock, Inbox, lease

_RETRIES: dict[str, Any] = {
    "autoretry_for": (BankUnavailable, BankConflict),
    "retry_backoff": True,
    "retry_jitter": False,  # a delay of 0 could start the copy before this one has ended (docs/how-to/payments.md)
    "max_retries": 10,
}


@cache
def _client(pid: int, url: str, timeout: float) -> BankClient:
    return BankClient(url, timeout)


def bank() -> BankClient:
    """Return this process's client for the bank."""
    return _client(os.getpid(), settings.BANK_URL, settings.BANK_TIMEOUT_SECONDS)


def _operation(
    customer: str, amount: int, work_ms: int = 0, operation: str | None = None, *, keyless: bool = False
) -> str | None:
    return operation


def _begin(customer: str, amount: int, work_ms: int) -> str:
    """Do the job's work before its effect. Returns its operation key."""
    subject = current()
    reached(Point.EFFECT_BEGUN)
    if work_ms:
        time.sleep(work_ms / 1000)  # the job's own work, not a wait for something
    # A task that is called as a function has no delivery and no task ID.
    return subject.operation if subject else f"direct:{customer}:{amount}:{time.time_ns()}"


def _charge(
    task: Any, customer: str, amount: int, work_ms: int, *, with_key: bool, fence: int | None = None
) -> dict[str, Any]:
    """Debit ``amount`` cents after ``work_ms`` milliseconds of work. Returns the task's result."""
    operation = _begin(customer, amount, work_ms)
    try:
        receipt = bank().debit(
            account=customer,
            amount=amount,
            reference=operation,
            idempotency_key=operation if with_key else None,
            fence=fence,
            source=task.request.id or "",
        )
    except BankFenced as error:
        reached(Point.FENCED, fence=fence)
        raise Fenced(
            f"The bank has charged {operation!r} for a later holder of its lease. Nothing was charged now."
        ) from error
    reached(Point.EFFECT_DONE, debit=receipt.id, replayed=receipt.replayed)
    return {"debit": receipt.id, "amount": amount, "customer": customer}


@AcksEarly.task(bind=True, name="tasks_demo.charge_acks_early", books="bank", operation=_operation)
def charge_acks_early(
    self: Any, customer: str, amount: int, work_ms: int = 0, operation: str | None = None
) -> dict[str, Any]:
    """Charge a customer at most once: a killed worker means a lost charge."""
    return _charge(self, customer, amount, work_ms, with_key=False)


@AcksLate.task(bind=True, name="tasks_demo.charge_acks_late", books="bank", operation=_operation, **_RETRIES)
def charge_acks_late(
    self: Any, customer: str, amount: int, work_ms: int = 0, operation: str | None = None
) -> dict[str, Any]:
    """Charge a customer at least once: a killed worker can mean a second charge."""
    return _charge(self, customer, amount, work_ms, with_key=False)


@DedupLock.task(bind=True, name="tasks_demo.charge_dedup_lock", books="bank", operation=_operation, **_RETRIES)
def charge_dedup_lock(
    self: Any, customer: str, amount: int, work_ms: int = 0, operation: str | None = None, *, keyless: bool = False
) -> dict[str, Any]:
    """Charge a customer once per operation key: the bank gets the key, and the fence of the lease.

    ``keyless``: send no key, as to a bank that does not support idempotency keys. The lab shows the difference.
    """
    fence = None if self.request.called_directly else lease().fence
    return _charge(self, customer, amount, work_ms, with_key=not keyless, fence=fence)


@Outbox.task(bind=True, name="tasks_demo.charge_outbox", books="bank", operation=_operation, **_RETRIES)
def charge_outbox(
    self: Any, customer: str, amount: int, work_ms: int = 0, operation: str | None = None
) -> dict[str, Any]:
    """Charge a customer at least once; if enqueued with ``outbox.enqueue``, even when the broker loses the message."""
    return _charge(self, customer, amount, work_ms, with_key=False)


@ClaimFirst.task(bind=True, name="tasks_demo.charge_claim_first", books="bank", operation=_operation)
def charge_claim_first(
    self: Any, customer: str, amount: int, work_ms: int = 0, operation: str | None = None
) -> dict[str, Any]:
    """Charge a customer at most once, even if delivered again: a killed worker means a lost charge."""
    return _charge(self, customer, amount, work_ms, with_key=False)


@Inbox.task(bind=True, name="tasks_demo.charge_inbox", books="shop", operation=_operation)
def charge_inbox(
    self: Any, customer: str, amount: int, work_ms: int = 0, operation: str | None = None
) -> dict[str, Any]:
    """Charge a customer once per operation key, in our own database: booking and inbox entry are committed together."""
    booking = Booking.objects.create(
        operation=_begin(customer, amount, work_ms),
        task_id=self.request.id or "",
        customer=customer,
        amount=amount,
    )
    reached(Point.EFFECT_DONE, booking=booking.pk)
    return {"booking": booking.pk, "amount": amount, "customer": customer}


#: The demo's task of each pattern.
CHARGES: dict[str, Any] = {
    "acks_early": charge_acks_early,
    "acks_late": charge_acks_late,
    "dedup_lock": charge_dedup_lock,
    "outbox": charge_outbox,
    "claim_first": charge_claim_first,
    "inbox": charge_inbox,
}
