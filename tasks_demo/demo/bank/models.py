"""The books: who was charged what, under which reference. Amounts are integer cents."""

from __future__ import annotations

import uuid
from typing import Any, NoReturn

from django.db import models
from django.db.models import Q
from django.utils import timezone

#: Longest name, reference, source or key, in characters.
LONGEST_TEXT = 255
#: Largest amount of one debit, in cents: 900 million such debits still sum up within 64 bits.
LARGEST_AMOUNT = 10_000_000_000
#: The largest whole number that SQLite and PostgreSQL can store.
LARGEST_INTEGER = 2**63 - 1


class Books(models.Model):
    """The identity of these books, made once: numbers of debits mean nothing across two databases."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    identity = models.UUIDField(default=uuid.uuid4)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="bank_books_one_row")]

    def __str__(self) -> str:
        return str(self.identity)


class Account(models.Model):
    """Somebody who can be charged. Opened by the first debit; there is no balance and no limit."""

    name = models.CharField(max_length=LONGEST_TEXT, unique=True)

    def __str__(self) -> str:
        return self.name


class IdempotencyKey(models.Model):
    """One ``Idempotency-Key`` that a caller has used, and what it was answered. Keys are never forgotten."""

    class Status(models.TextChoices):
        IN_FLIGHT = "in_flight", "in flight"
        DONE = "done", "done"

    key = models.CharField(max_length=LONGEST_TEXT, unique=True)
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of method, path and body.")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.IN_FLIGHT)
    owner = models.CharField(max_length=64, help_text="The bank process that works, or worked, on it.")
    response = models.JSONField(null=True, help_text="The answer to give again.")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(status="in_flight", response__isnull=True) | Q(status="done", response__isnull=False),
                name="bank_key_done_has_response",
            )
        ]

    def __str__(self) -> str:
        return f"{self.key} {self.status}"


class Fence(models.Model):
    """The highest fencing token that was answered with a debit, per reference. It never falls, and is never forgotten."""

    reference = models.CharField(max_length=LONGEST_TEXT, unique=True)
    token = models.BigIntegerField()

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(token__gt=0), name="bank_fence_token_above_zero")]

    def __str__(self) -> str:
        return f"{self.reference} {self.token}"


class AppendOnly(models.QuerySet["Debit"]):
    """Refuses to change or delete rows in bulk."""

    def update(self, **fields: Any) -> NoReturn:
        raise TypeError("Debits are never changed.")

    def delete(self) -> NoReturn:
        raise TypeError("Debits are never deleted.")


class Debit(models.Model):
    """One charge that was made. Rows are added and never changed."""

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="debits")
    amount = models.BigIntegerField(help_text="Integer cents, above zero.")
    reference = models.CharField(max_length=LONGEST_TEXT, help_text="What the caller charged for: its operation key.")
    source = models.CharField(max_length=LONGEST_TEXT, blank=True, help_text="The caller's task ID, for information.")
    # Unique: whatever else goes wrong, one key makes one debit.
    idempotency = models.OneToOneField(IdempotencyKey, on_delete=models.PROTECT, null=True, related_name="debit")
    created_at = models.DateTimeField(default=timezone.now)

    objects = AppendOnly.as_manager()

    class Meta:
        ordering = ["id"]
        constraints = [models.CheckConstraint(condition=Q(amount__gt=0), name="bank_debit_amount_above_zero")]
        indexes = [models.Index(fields=["reference", "id"], name="bank_debit_reference")]

    def __str__(self) -> str:
        return f"{self.reference} {self.amount}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError("Debits are never changed.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("Debits are never deleted.")

    def as_json(self) -> dict[str, Any]:
        """The form in which callers see it. Reads the account: select it along."""
        return {
            "id": self.pk,
            "account": self.account.name,
            "amount": self.amount,
            "reference": self.reference,
            "source": self.source,
            "created_at": self.created_at.isoformat(),
        }
