"""The bank's tables. Amounts are integer cents."""

from __future__ import annotations

import uuid
from typing import Any

from django.db import models
from django.db.models import Q
from django.utils import timezone

#: Longest name, reference, source or key, in characters.
LONGEST_TEXT = 255
#: Largest amount of one debit, in cents. The sum of 900 million such debits still fits into 64 bits.
LARGEST_AMOUNT = 10_000_000_000
#: The largest integer that SQLite and PostgreSQL can store.
LARGEST_INTEGER = 2**63 - 1


class Identity(models.Model):
    """The identity of this database, created once, because numbers of debits are not comparable across databases."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    identity = models.UUIDField(default=uuid.uuid4)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="bank_identity_one_row")]


class FencingToken(models.Model):
    """The highest fencing token under which a reference was charged. It never decreases and is never deleted."""

    reference = models.CharField(max_length=LONGEST_TEXT, unique=True)
    highest = models.BigIntegerField()

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(highest__gt=0), name="bank_fencing_token_above_zero")]


class Debit(models.Model):
    """One charge that was made. Rows are added and never changed."""

    account = models.CharField(max_length=LONGEST_TEXT, help_text="Who was charged. There is no balance and no limit.")
    amount = models.BigIntegerField(help_text="Cents, above zero.")
    reference = models.CharField(max_length=LONGEST_TEXT, help_text="What the caller charged for: its operation key.")
    source = models.CharField(max_length=LONGEST_TEXT, blank=True, help_text="The caller's task ID, for information.")
    key = models.CharField(
        max_length=LONGEST_TEXT, unique=True, null=True, help_text="The idempotency key. Never deleted."
    )
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["id"]
        constraints = [models.CheckConstraint(condition=Q(amount__gt=0), name="bank_debit_amount_above_zero")]
        indexes = [models.Index(fields=["reference", "id"], name="bank_debit_reference")]

    def as_json(self) -> dict[str, Any]:
        """Return the form in which callers see it."""
        return {
            "id": self.pk,
            "account": self.account,
            "amount": self.amount,
            "reference": self.reference,
            "source": self.source,
            "created_at": self.created_at.isoformat(),
        }
