"""Tables of the ledger's rollups. They are derived from the tallies; after ``rollups.refold``, ``fold`` fills them again."""

from __future__ import annotations

from django.db import models
from django.db.models import Q


class Rollup(models.Model):
    """Counts of the task IDs first seen in one span of time, of one task and pattern."""

    span = models.IntegerField(help_text="Seconds: 60, 3600 or 86400.")
    start = models.BigIntegerField(help_text="Seconds since the epoch; a multiple of the span.")
    task = models.CharField(max_length=255, blank=True)
    pattern = models.CharField(max_length=40, blank=True)
    task_ids = models.IntegerField(default=0)
    published = models.IntegerField(default=0, help_text="Task IDs with a recorded publication.")
    booked = models.IntegerField(default=0, help_text="Task IDs whose effects are counted by books.")
    executions_0 = models.IntegerField(default=0)
    executions_1 = models.IntegerField(default=0)
    executions_2 = models.IntegerField(default=0, help_text="Two or more.")
    effects_0 = models.IntegerField(default=0)
    effects_1 = models.IntegerField(default=0)
    effects_2 = models.IntegerField(default=0, help_text="Two or more.")
    suppressed = models.IntegerField(default=0)
    deferred = models.IntegerField(default=0)
    waiting = models.IntegerField(default=0)
    running = models.IntegerField(default=0)
    retrying = models.IntegerField(default=0)
    succeeded = models.IntegerField(default=0)
    failed = models.IntegerField(default=0)
    parked = models.IntegerField(default=0)
    lost = models.IntegerField(default=0)
    broken = models.IntegerField(default=0)

    class Meta:
        app_label = "tasks_demo"
        constraints = [models.UniqueConstraint(fields=["span", "start", "task", "pattern"], name="rollup_key")]
        indexes = [models.Index(fields=["span", "start"], condition=Q(waiting__gt=0), name="rollup_waiting")]

    def __str__(self) -> str:
        return f"{self.span} s from {self.start}: {self.task} {self.pattern}"


class RollupState(models.Model):
    """How far the tallies are folded. The table has one row.

    Every event is read twice. The second pass comes after all transactions that were open during the first have ended. Task IDs
    that were first seen before the first fold are counted backwards, from the latest minute to the earliest.
    """

    id = models.IntegerField(primary_key=True, default=1)
    version = models.BigIntegerField(default=0)
    first_pass_event = models.BigIntegerField(default=0, help_text="The last event of the first pass.")
    second_pass_event = models.BigIntegerField(default=0, help_text="The last event of the second pass.")
    second_pass_limit = models.BigIntegerField(
        default=0, help_text="The second pass stops here: first_pass_event as it was at limit_set_at."
    )
    limit_set_at = models.FloatField(default=0.0, help_text="Seconds since the epoch.")
    backfill_minute = models.BigIntegerField(
        null=True, help_text="The next past minute to count, seconds since the epoch; empty: all are counted."
    )
    folded_at = models.FloatField(default=0.0, help_text="When the last fold began, seconds since the epoch.")

    class Meta:
        app_label = "tasks_demo"

    def __str__(self) -> str:
        return f"folded up to event {self.first_pass_event}"


class Backlog(models.Model):
    """The number of jobs that were waiting and running in one minute, as far as the ledger knew."""

    minute = models.BigIntegerField(primary_key=True, help_text="Seconds since the epoch; a multiple of 60.")
    waiting = models.IntegerField()
    running = models.IntegerField()
    oldest = models.IntegerField(help_text="How long the oldest waiting job had waited, seconds, to the minute.")

    class Meta:
        app_label = "tasks_demo"

    def __str__(self) -> str:
        return f"{self.minute}: {self.waiting}"
