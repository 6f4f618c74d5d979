"""The tables: an append-only history of events, and one tally per task ID kept in step with it.

Both are written by the ledger only (``tasks_demo.ledger``), with the SQL in ``ledger/sql``; the models are
for reading. ``Tally.verdict`` and ``Tally.broken`` are computed by the database itself from the counts, so
they can never disagree with them.
"""

from __future__ import annotations

from typing import Any, NoReturn

from django.db import models
from django.db.models import Case, F, Q, Value, When

from tasks_demo.semantics import PROMISES, Semantics

#: Belongs to an experiment; with it in its WHERE a query finds the index on runs, which holds nothing else.
IN_A_RUN = ~Q(run="")


class ReadOnly(models.Model):
    """Refuses to be written through the ORM: evidence is appended by the ledger and never edited."""

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is read-only: only the ledger writes it.")

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is read-only: evidence is not deleted row by row.")


class Event(ReadOnly):
    """One thing that happened: a point that was reached, an effect in the bank's books, or a fault."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(help_text="Clock of the process that wrote it; order within the table is by id.")
    kind = models.CharField(max_length=20)
    task_id = models.CharField(max_length=255)
    operation = models.CharField(max_length=255, blank=True)
    pattern = models.CharField(max_length=40, blank=True)
    worker = models.CharField(max_length=255, blank=True)
    pid = models.IntegerField(null=True)
    run = models.CharField(max_length=120, blank=True, help_text="The experiment cell it belongs to, if any.")
    source = models.CharField(max_length=120, help_text="Who wrote it and its number there: no event counts twice.")
    detail = models.JSONField(default=dict)

    class Meta:
        app_label = "tasks_demo"
        ordering = ["id"]
        # Not unique=True: PostgreSQL would get a second index on it, for LIKE, that nothing asks for.
        constraints = [models.UniqueConstraint(fields=["source"], name="event_source")]
        indexes = [
            models.Index(fields=["task_id", "id"], name="event_task"),
            models.Index(fields=["run", "id"], condition=IN_A_RUN, name="event_run"),
            models.Index(fields=["operation"], condition=Q(kind="effect"), name="event_effect_operation"),
            models.Index(fields=["id"], condition=Q(kind="effect"), name="event_effect_latest"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.task_id}"


def _semantics(semantics: Semantics) -> Q:
    return Q(pattern__in=sorted(name for name, promise in PROMISES.items() if promise.semantics is semantics))


#: Ended without an effect, and the books were not read since: what `ledger.effects.settle` looks for.
UNSETTLED = Q(settled=0, effects=0, ended__gt=0) & ~Q(books="")
_quiet = Q(ended__gt=0) | Q(settled__gt=0)
_lost = Q(effects=0, settled__gt=0, publications__gt=0, quarantined=0) & ~Q(books="")


class Tally(ReadOnly):
    """The counts of one task ID. ``effects`` counts the debits of its *operation* in the bank's books."""

    class Verdict(models.TextChoices):
        OK = "ok", "ok"
        RECOVERED = "recovered", "recovered"
        LOST = "lost", "lost"
        DUPLICATED = "duplicated", "duplicated"
        PARKED = "parked", "parked"
        UNRESOLVED = "unresolved", "unresolved"

    task_id = models.CharField("task ID", max_length=255, primary_key=True)
    operation = models.CharField(max_length=255)
    pattern = models.CharField(max_length=40, blank=True)
    run = models.CharField(max_length=120, blank=True)
    books = models.CharField(max_length=40, blank=True, help_text="Who outside counts its effects; empty: nobody.")
    publications = models.IntegerField(default=0)
    deliveries = models.IntegerField(default=0)
    executions = models.IntegerField(default=0)
    effects = models.IntegerField(default=0)
    suppressed = models.IntegerField(default=0)
    deferred = models.IntegerField(default=0)
    fenced = models.IntegerField(default=0)
    quarantined = models.IntegerField(default=0)
    failed = models.IntegerField(default=0)
    faults = models.IntegerField(default=0, help_text="Faults that landed on it.")
    ended = models.IntegerField(default=0, help_text="Deliveries that came to an end of their own.")
    settled = models.IntegerField(default=0, help_text="The books were read after all was quiet.")
    first_at = models.DateTimeField(
        help_text="The earliest moment of the first batch that told of it; never set again."
    )
    last_at = models.DateTimeField()
    verdict = models.GeneratedField(
        expression=Case(
            When(Q(effects__gte=2), then=Value(Verdict.DUPLICATED.value)),
            When(~_quiet | Q(books=""), then=Value(Verdict.UNRESOLVED.value)),
            # A delivery that main did not live to write down shows as a second execution.
            When(Q(effects=1) & (Q(deliveries__gte=2) | Q(executions__gte=2)), then=Value(Verdict.RECOVERED.value)),
            When(Q(effects=1), then=Value(Verdict.OK.value)),
            When(Q(effects=0, quarantined__gt=0), then=Value(Verdict.PARKED.value)),
            When(_lost, then=Value(Verdict.LOST.value)),
            default=Value(Verdict.UNRESOLVED.value),
        ),
        output_field=models.CharField(max_length=12, choices=Verdict.choices),
        db_persist=True,
    )
    broken = models.GeneratedField(
        expression=Case(
            When(_semantics(Semantics.AT_MOST_ONCE) & (Q(effects__gte=2) | Q(executions__gte=2)), then=Value(True)),
            When(_semantics(Semantics.AT_LEAST_ONCE) & _lost, then=Value(True)),
            When(_semantics(Semantics.EFFECTIVELY_ONCE) & (_lost | Q(effects__gte=2)), then=Value(True)),
            default=Value(False),
        ),
        output_field=models.BooleanField(),
        db_persist=True,
        help_text="The promise of the pattern was broken.",
    )

    class Meta:
        app_label = "tasks_demo"
        verbose_name = "task ID"
        verbose_name_plural = "task IDs"
        ordering = [F("first_at").desc(), "task_id"]
        # A tally is updated several times in a job's life, and SQLite rewrites every index that holds a column that is SET
        # or computed from one. So none holds last_at, and few the verdict; a partial one costs only whom it is about.
        # Of two that serve a query alike SQLite takes the one made last: the most selective come last.
        indexes = [
            models.Index(fields=["operation"], name="tally_operation", opclasses=["varchar_pattern_ops"]),
            models.Index(fields=["-first_at", "task_id"], name="tally_latest"),
            models.Index(fields=["pattern", "-first_at"], name="tally_pattern"),
            models.Index(fields=["verdict", "-first_at"], name="tally_verdict"),
            models.Index(fields=["pattern", "verdict", "-first_at"], name="tally_pattern_verdict"),
            models.Index(fields=["broken", "-first_at"], condition=Q(broken=True), name="tally_broken"),
            models.Index(fields=["run", "-first_at"], condition=IN_A_RUN, name="tally_run"),
            models.Index(fields=["first_at"], condition=UNSETTLED, name="tally_unsettled"),
        ]

    def __str__(self) -> str:
        return self.task_id
