"""The shop's business data."""

from django.db import models


class Order(models.Model):
    """What a customer wants."""

    title = models.CharField(max_length=100)
    cents = models.IntegerField()

    def __str__(self) -> str:
        return self.title


class Payment(models.Model):
    """One charge: the effect that must happen once per order."""

    order_id = models.CharField(max_length=100, db_index=True)
    cents = models.IntegerField()
    by = models.CharField(max_length=100, help_text="The name of the task that charged.")

    def __str__(self) -> str:
        return f"{self.order_id}: {self.cents}"
