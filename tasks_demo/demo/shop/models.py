"""The shop's tables: an order is written when a customer asks, a booking when its job runs."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """An order of a customer: the business data with which an outbox message is committed."""

    task_id = models.CharField(max_length=255)
    customer = models.CharField(max_length=64)
    amount = models.BigIntegerField(help_text="Cents.")
    created_at = models.DateTimeField(auto_now_add=True)


class Booking(models.Model):
    """One effect of a job in our own database. There is no unique constraint, so that a duplicate is a second row."""

    operation = models.CharField(max_length=255, db_index=True)
    task_id = models.CharField(max_length=255)
    customer = models.CharField(max_length=64)
    amount = models.BigIntegerField(help_text="Cents.")
    created_at = models.DateTimeField(auto_now_add=True)


class Identity(models.Model):
    """The identity of this database (one row), because numbers of bookings are not comparable across databases."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    identity = models.CharField(max_length=16)
