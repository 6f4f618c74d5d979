"""The ledger's tables: an append-only history of events, and one tally per task ID, updated in the same transaction.

Only the ledger writes them (``tasks_demo.ledger``), with the SQL in ``ledger/sql``. The models are for reading. The database
computes ``Tally.verdict``, ``Tally.broken`` and ``Tally.outcome`` from the counts and the latest state, so they always agree.
"""

from __future__ import annotations

from typing import Any, NoReturn

from django.db import models
from django.db.models import Case, ExpressionWrapper, F, Q, Value, When
from django.db.models.lookups import Exact, In

from tasks_demo.core.semantics import PROMISES, Semantics

#: Belongs to an experiment. A query with this condition can use the partial index on runs.
IN_A_RUN = ~Q(run="")
#: Has not ended, or its books were not read since. A query with this condition can use the partial index on open task IDs.
OPEN = Q(verdict="unresolved") | Q(outcome="waiting") | Q(outcome="running") | Q(outcome="retrying")
#: A job whose message the broker may still have. One that its books call lost keeps the outcome "waiting": nothing has ended it.
STILL_WAITING = Q(outcome="waiting") & ~Q(verdict="lost")
#: No end is on record, and none will be: its books call it lost, or its process was killed after the effect. (A job that waits
#: and is ok may have been requeued by a person.)
ENDED_UNSEEN = Q(verdict="lost") | Q(verdict="ok", outcome="running")
STILL_RUNNING = Q(outcome="running") & ~ENDED_UNSEEN
#: Few rows, and the ones people search for. Queries with these conditions can use the partial indexes on verdicts and outcomes.
# No IN: SQLite does not compare a list of parameters with the list in an index.
NOTABLE_VERDICT = ~Q(verdict="ok") & ~Q(verdict="unresolved")
NOTABLE_OUTCOME = ~Q(outcome="succeeded") & ~Q(outcome="waiting") & ~Q(outcome="running") & ~Q(outcome="retrying")


class ReadOnly(models.Model):
    """Refuses ``save`` and ``delete``: the ledger appends evidence and never edits it."""

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is read-only: only the ledger writes it.")

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is read-only: evidence is not deleted row by row.")


class Event(ReadOnly):
    """One event: a point that was reached, an effect in a set of books, a fault, or a fact about a worker or the ledger."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(help_text="Clock of the process that wrote it; order within the table is by id.")
    kind = models.CharField(max_length=20)
    task_id = models.CharField(max_length=255)
    operation = models.CharField(max_length=255, blank=True)
    pattern = models.CharField(max_length=40, blank=True)
    worker = models.CharField(max_length=255, blank=True)
    pid = models.IntegerField(null=True)
    run = models.CharField(max_length=120, blank=True, help_text="The experiment cell it belongs to, if any.")
    source = models.CharField(max_length=120, help_text="Writer and number, unique, so that no event counts twice.")
    detail = models.JSONField(default=dict)

    class Meta:
        app_label = "tasks_demo"
        ordering = ["id"]
        # Not unique=True: PostgreSQL would get a second index, for LIKE, that no query uses.
        constraints = [models.UniqueConstraint(fields=["source"], name="event_source")]
        indexes = [
            models.Index(fields=["task_id", "id"], name="event_task"),
            models.Index(fields=["run", "id"], condition=IN_A_RUN, name="event_run"),
            models.Index(fields=["operation"], condition=Q(kind="effect"), name="event_effect_operation"),
            models.Index(fields=["at"], condition=Q(kind="gap"), name="event_gap"),
            models.Index(fields=["worker", "at"], condition=Q(kind="started"), name="event_worker"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.task_id}"


class BookCursor(models.Model):
    """How far a book was read: up to ``number``, except entries of transactions that were open then and committed later.

    Entries up to ``pruned`` that are not in the ledger were pruned from it and are never copied again.
    """

    source = models.CharField(max_length=120, primary_key=True, help_text="The book's name and identity.")
    number = models.BigIntegerField(default=0)
    snapshot = models.CharField(max_length=60, blank=True)
    pruned = models.BigIntegerField(default=0)

    class Meta:
        app_label = "tasks_demo"

    def __str__(self) -> str:
        return f"{self.source}{self.number}"


class BooksRead(models.Model):
    """When the books of a name were last read to their end, and since when they cannot be read."""

    name = models.CharField(max_length=40, primary_key=True)
    read_at = models.DateTimeField(null=True)
    trouble = models.CharField(max_length=500, blank=True)
    failing_since = models.DateTimeField(null=True)

    class Meta:
        app_label = "tasks_demo"
        verbose_name_plural = "books read"

    def __str__(self) -> str:
        return self.name


def _semantics(semantics: Semantics) -> Q:
    return Q(pattern__in=sorted(name for name, promise in PROMISES.items() if promise.semantics is semantics))


class Outcome(models.TextChoices):
    """The state of a job as Celery reports it."""

    WAITING = "waiting", "waiting"
    RUNNING = "running", "running"
    RETRYING = "retrying", "retrying"
    SUCCEEDED = "succeeded", "succeeded"
    FAILED = "failed", "failed"
    EXPIRED = "expired", "expired"
    REVOKED = "revoked", "revoked"
    REJECTED = "rejected", "rejected"
    PARKED = "parked", "parked"


#: Outcomes by the last hexadecimal digit of ``Tally.state``; see ``ledger.tallies.STATES``.
OUTCOMES: dict[int, Outcome] = dict(enumerate(Outcome, start=1))
# Django before 5.2 does not infer the type.
_code = ExpressionWrapper(F("state") % 16, models.BigIntegerField())
#: In the order in which the database compares them at each update.
_LIKELIEST_FIRST = sorted(OUTCOMES, key=lambda code: (OUTCOMES[code] not in {Outcome.RUNNING, Outcome.SUCCEEDED}, code))
_called_off = In(_code, [6, 7])  # expired, revoked
#: Patterns for which a suppressed delivery shows that the operation is completed.
_stores_completion = _semantics(Semantics.EFFECTIVELY_ONCE)

#: Ended without an effect, and the books were not read since: the tasks that ``ledger.settling.settle`` selects.
UNSETTLED = Q(settled=0, effects=0, ended__gt=0) & ~Q(books="")
_quiet = Q(ended__gt=0) | Q(settled__gt=0)
_repeated = Q(deliveries__gte=2) | Q(executions__gte=2)
# It raised an error of its own, or Reject or Ignore: that is an end, and no message is missing. Bodies of experiments do not fail
# by themselves: there an error is the work of the fault (docs/decisions/0080).
_ended_itself = Q(abandoned=0, run="") & (Q(Exact(_code, 5)) | Q(Exact(_code, 8), executions__gt=0))
_lost = Q(effects=0, settled__gt=0, publications__gt=0, quarantined=0) & ~Q(books="") & ~Q(_called_off) & ~_ended_itself
# Without books, executions are judged. How far an execution came before its process died is unknown.
_never_run = Q(executions=0) & Q(Exact(_code, 8))
_done_by_another = Q(suppressed__gt=0) & _stores_completion
_judged_without_effect = Q(books="") | Q(settled__gt=0) & _ended_itself
_cut_short = Q(books="", effects=0, returned=0, quarantined=0) & (Q(abandoned__gt=0) | _never_run) & ~_done_by_another
#: Few rows, and the ones people search for. ``dashboard.filters`` repeats it for the partial index.
IRREGULAR = Q(executions__gte=2) | Q(effects__gte=2) | Q(suppressed__gt=0) | Q(deferred__gt=0)


class Tally(ReadOnly):
    """The counts of one task ID. ``effects`` counts the effects of its *operation*, whichever task ID caused them."""

    class Verdict(models.TextChoices):
        OK = "ok", "ok"
        RECOVERED = "recovered", "recovered"
        LOST = "lost", "lost"
        DUPLICATED = "duplicated", "duplicated"
        PARKED = "parked", "parked"
        DROPPED = "dropped", "dropped"
        UNRESOLVED = "unresolved", "unresolved"

    task_id = models.CharField("task ID", max_length=255, primary_key=True)
    task = models.CharField(max_length=255, blank=True, help_text="The name under which the task is registered.")
    operation = models.CharField(max_length=255)
    pattern = models.CharField(max_length=40, blank=True)
    run = models.CharField(max_length=120, blank=True)
    books = models.CharField(max_length=40, blank=True, help_text="The books that count its effects; empty: none.")
    publications = models.IntegerField(default=0)
    deliveries = models.IntegerField(default=0)
    executions = models.IntegerField(default=0)
    effects = models.IntegerField(default=0)
    suppressed = models.IntegerField(default=0)
    deferred = models.IntegerField(default=0)
    fenced = models.IntegerField(default=0)
    quarantined = models.IntegerField(default=0)
    failed = models.IntegerField(default=0)
    returned = models.IntegerField(default=0, help_text="Executions that ended without an error.")
    abandoned = models.IntegerField(
        default=0, help_text="Executions that were killed, with their message acknowledged."
    )
    faults = models.IntegerField(default=0, help_text="Faults that were injected into it.")
    ended = models.IntegerField(default=0, help_text="Deliveries that ended, in any way but a kill.")
    settled = models.IntegerField(default=0, help_text="The books were read after it had ended.")
    state = models.BigIntegerField(
        default=0, help_text="Microseconds since the epoch times 16, plus the code of the state since then."
    )
    first_at = models.DateTimeField(help_text="The earliest event of the first batch about it; never changed.")
    last_at = models.DateTimeField()
    verdict = models.GeneratedField(
        expression=Case(
            When(Q(effects__gte=2) | Q(books="", returned__gte=2), then=Value(Verdict.DUPLICATED.value)),
            When(~_quiet, then=Value(Verdict.UNRESOLVED.value)),
            # If the main process was killed before it recorded a delivery, only the second execution shows the redelivery.
            When((Q(effects=1) | Q(books="", returned=1)) & _repeated, then=Value(Verdict.RECOVERED.value)),
            When(Q(effects=1) | Q(books="", returned=1), then=Value(Verdict.OK.value)),
            When(Q(quarantined__gt=0), then=Value(Verdict.PARKED.value)),
            When(Q(_called_off), then=Value(Verdict.DROPPED.value)),
            When(_lost | _cut_short, then=Value(Verdict.LOST.value)),
            # It ended with its own error, or because the operation was already completed.
            When(_judged_without_effect & _repeated, then=Value(Verdict.RECOVERED.value)),
            When(_judged_without_effect, then=Value(Verdict.OK.value)),
            default=Value(Verdict.UNRESOLVED.value),
        ),
        output_field=models.CharField(max_length=12, choices=Verdict.choices),
        db_persist=True,
    )
    broken = models.GeneratedField(
        expression=Case(
            # The numbers come first: they decide for nearly every row, and cost less to compare than texts.
            When((Q(effects__gte=2) | Q(executions__gte=2)) & _semantics(Semantics.AT_MOST_ONCE), then=Value(True)),
            When((_lost | _cut_short) & _semantics(Semantics.AT_LEAST_ONCE), then=Value(True)),
            When((_lost | _cut_short | Q(effects__gte=2)) & _semantics(Semantics.EFFECTIVELY_ONCE), then=Value(True)),
            default=Value(False),
        ),
        output_field=models.BooleanField(),
        db_persist=True,
        help_text="The promise of the pattern was broken.",
    )
    outcome = models.GeneratedField(
        expression=Case(
            # A suppressed copy shows that the operation is completed. It may be one of several, so it overrides no final state.
            When(Q(suppressed__gt=0, state=0) | _done_by_another & Q(In(_code, [1, 2, 3])), then=Value("succeeded")),
            *(When(Exact(_code, code), then=Value(OUTCOMES[code].value)) for code in _LIKELIEST_FIRST),
            default=Value(Outcome.WAITING.value),
        ),
        output_field=models.CharField(max_length=12, choices=Outcome.choices),
        db_persist=True,
    )

    class Meta:
        app_label = "tasks_demo"
        verbose_name = "task ID"
        verbose_name_plural = "task IDs"
        default_permissions = ("view",)
        permissions = [("publish_job", "Can publish jobs"), ("run_again", "Can run failed jobs again")]
        ordering = [F("first_at").desc(), "task_id"]
        # A tally is updated several times in a job's life, and SQLite rewrites every index on a column that is SET or computed
        # from one. So there is no index on last_at, and those on verdict and outcome leave out the values that every job passes
        # through: with all rows in them a job cost a quarter more CPU time (docs/decisions/0042).
        # Of two equally suitable indexes SQLite uses the one created last, so the most selective come last.
        indexes = [
            models.Index(fields=["operation"], name="tally_operation", opclasses=["varchar_pattern_ops"]),
            models.Index(fields=["-first_at", "task_id"], name="tally_latest"),
            models.Index(fields=["pattern", "-first_at"], name="tally_pattern"),
            models.Index(fields=["task", "-first_at"], name="tally_task"),
            models.Index(fields=["-first_at", "task_id"], condition=OPEN, name="tally_open"),
            models.Index(fields=["verdict", "-first_at"], condition=NOTABLE_VERDICT, name="tally_verdict"),
            models.Index(
                fields=["pattern", "verdict", "-first_at"], condition=NOTABLE_VERDICT, name="tally_pattern_verdict"
            ),
            models.Index(fields=["-first_at", "task_id"], condition=IRREGULAR, name="tally_again"),
            models.Index(fields=["broken", "-first_at"], condition=Q(broken=True), name="tally_broken"),
            models.Index(fields=["outcome", "-first_at"], condition=NOTABLE_OUTCOME, name="tally_outcome"),
            models.Index(fields=["run", "-first_at"], condition=IN_A_RUN, name="tally_run"),
            models.Index(fields=["first_at"], condition=UNSETTLED, name="tally_unsettled"),
        ]

    def __str__(self) -> str:
        return self.task_id
