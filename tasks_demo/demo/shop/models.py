"""What the shop writes: an order when a customer asks, a booking when its job has run."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """A committed wish of a customer: the business data that an outbox message is committed with."""

    id = models.BigAutoField(primary_key=True)
    task_id = models.CharField(max_length=255)
    customer = models.CharField(max_length=64)
    amount = models.BigIntegerField(help_text="Cents.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "shop"

    def __str__(self) -> str:
        return f"{self.customer}: {self.amount}"


class Booking(models.Model):
    """One effect of a job in our own database. Nothing here is unique: a second booking shows as a second row."""

    id = models.BigAutoField(primary_key=True)
    operation = models.CharField(max_length=255, db_index=True)
    task_id = models.CharField(max_length=255)
    customer = models.CharField(max_length=64)
    amount = models.BigIntegerField(help_text="Cents.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "shop"

    def __str__(self) -> str:
        return f"{self.operation}: {self.amount}"


class Books(models.Model):
    """The identity of this database's bookings: one row."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    identity = models.CharField(max_length=16)

    class Meta:
        app_label = "shop"
        verbose_name_plural = "books"

    def __str__(self) -> str:
        return self.identity
