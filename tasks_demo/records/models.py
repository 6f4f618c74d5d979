"""The tables of the patterns, the outbox and the quarantine.

They belong in the database of the business data: ``inbox`` and ``outbox`` commit their row together with it. Each model has an
``app_label``; without it Django would assign them to ``tasks_demo`` in a project that has not installed ``tasks_demo.records``.
"""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import Q

from tasks_demo.records.fields import JSONText
from tasks_demo.records.serialised import unpacked


class Claim(models.Model):
    """claim_first: the delivery that inserts the row runs the body; no later delivery does."""

    operation = models.CharField(max_length=255, primary_key=True)
    task_id = models.CharField(max_length=255)
    digest = models.CharField(max_length=64, help_text="Of the arguments: the same key with others is a mistake.")
    worker = models.CharField(max_length=255, blank=True)
    claimed_at = models.DateTimeField(db_index=True)
    transaction_id = ""  # no column: of the INSERT, on PostgreSQL

    class Meta:
        app_label = "tasks_demo_records"

    def __str__(self) -> str:
        return self.operation


class Fence(models.Model):
    """dedup_lock: the highest fence that has written for an operation in this database."""

    operation = models.CharField(max_length=255, primary_key=True)
    token = models.BigIntegerField()
    at = models.DateTimeField(db_index=True)

    class Meta:
        app_label = "tasks_demo_records"

    def __str__(self) -> str:
        return f"{self.operation}: {self.token}"


class InboxEntry(models.Model):
    """inbox: committed in one transaction with the effect, so the row exists if and only if the effect does."""

    operation = models.CharField(max_length=255, primary_key=True)
    task_id = models.CharField(max_length=255)
    digest = models.CharField(max_length=64)
    result = models.TextField(null=True, help_text="JSON; null: none was stored.")
    completed_at = models.DateTimeField(db_index=True)
    transaction_id = ""  # no column: of the INSERT, on PostgreSQL

    class Meta:
        app_label = "tasks_demo_records"
        verbose_name_plural = "inbox entries"

    def __str__(self) -> str:
        return self.operation


class OutboxMessage(models.Model):
    """outbox: a job that was committed with the business transaction, and its state."""

    id = models.BigAutoField(primary_key=True)
    task_id = models.CharField("task ID", max_length=255, unique=True)
    task = models.CharField(max_length=255, help_text="The registered name.")
    arguments = models.TextField(default="[[], {}]", help_text="Positional and keyword arguments, serialized.")
    content_type = models.CharField(max_length=100, default="application/json", help_text="Of the arguments.")
    content_encoding = models.CharField(
        max_length=40, default="utf-8", help_text="Of the arguments; binary: as base64."
    )
    options = models.JSONField(default=dict, help_text="Queue, priority, headers and so on, as for apply_async.")
    created_at = models.DateTimeField()
    due_at = models.DateTimeField(help_text="When it is published, for the first time or again, unless it has ended.")
    publications = models.IntegerField(default=0, help_text="Publications that the broker confirmed.")
    failures = models.IntegerField(default=0, help_text="Failed attempts to publish since the last confirmed one.")
    error = models.TextField(blank=True, help_text="Of the last failed attempt, or why it ended without running.")
    queue = models.CharField(max_length=255, default="", blank=True, help_text="The queue, and the priority.")
    published_at = models.DateTimeField(
        null=True,
        help_text="The last confirmed publication; for a retry or deferral, when its copy is due; null: none yet.",
    )
    started_at = models.DateTimeField(null=True, help_text="When a worker last began it.")
    started_by = models.CharField(
        max_length=255, default="", blank=True, help_text="The process that runs it: machine, pid, start, worker."
    )
    seen_at = models.DateTimeField(null=True, help_text="When that process last reported that it is running it.")
    generation = models.IntegerField(
        default=-1, help_text="Retries and deferrals of the copy that last began; -1: any copy may begin."
    )
    finished_at = models.DateTimeField(null=True, help_text="When it ended; it is never published again.")
    _call: tuple[list[Any], dict[str, Any]] | None = None

    class Meta:
        app_label = "tasks_demo_records"
        default_permissions = ("view",)
        permissions = [
            ("hasten_outboxmessage", "Can have outbox messages published now"),
            ("cancel_outboxmessage", "Can cancel outbox messages"),
        ]
        indexes = [
            models.Index(fields=["due_at", "id"], condition=Q(finished_at=None), name="outbox_open"),
            models.Index(fields=["finished_at"], condition=Q(finished_at__isnull=False), name="outbox_finished"),
        ]

    def call(self, app: Any) -> tuple[list[Any], dict[str, Any]]:
        """Return positional and keyword arguments. Raises ContentDisallowed unless they are JSON or in accept_content."""
        if self._call is None:
            accept = ["json", *app.conf.accept_content]
            args, kwargs = unpacked(self.arguments, self.content_type, self.content_encoding, accept)
            self._call = args, kwargs
        return self._call

    def __str__(self) -> str:
        return f"{self.task}[{self.task_id}]"


class Attempt(models.Model):
    """quarantine: the number of deliveries of a message that began and never ended. Deleted when the job ends."""

    task_id = models.CharField(max_length=255)
    # A retry is published before the body that requested it ends, so the two are counted separately.
    retries = models.IntegerField(default=0)
    count = models.IntegerField()
    history = models.TextField(help_text="A line of JSON per attempt: when, which worker, which process.")
    last_at = models.DateTimeField(db_index=True)

    class Meta:
        app_label = "tasks_demo_records"
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["task_id", "retries"], name="attempt_of_message")]

    def __str__(self) -> str:
        return f"{self.task_id}: {self.count}"


class Parked(models.Model):
    """quarantine: a message that is no longer delivered, with everything needed to publish it again."""

    class State(models.TextChoices):
        PARKED = "parked", "parked"
        REQUEUED = "requeued", "requeued"
        DISCARDED = "discarded", "discarded"

    id = models.BigAutoField(primary_key=True)
    task_id = models.CharField("task ID", max_length=255, db_index=True)
    operation = models.CharField(max_length=255, blank=True)
    task = models.CharField(max_length=255, help_text="The registered name.")
    pattern = models.CharField(max_length=40, blank=True)
    # Text, not JSON: PostgreSQL's JSON columns reject NUL, which an argument may contain.
    message = models.TextField(help_text="Arguments, queue, priority, headers: all that a copy needs, serialized.")
    content_type = models.CharField(max_length=100, help_text="Of the message.")
    content_encoding = models.CharField(max_length=40, help_text="Of the message; binary: as base64.")
    attempts = models.IntegerField()
    history = models.JSONField(default=list, help_text="Of each attempt: when, which worker, which process.")
    reason = models.TextField()
    parked_at = models.DateTimeField()
    state = models.CharField(max_length=10, choices=State.choices, default=State.PARKED)

    class Meta:
        app_label = "tasks_demo_records"
        verbose_name = "parked message"
        ordering = ["-id"]
        default_permissions = ("view",)
        permissions = [
            ("requeue_parked", "Can requeue parked messages"),
            ("discard_parked", "Can discard parked messages"),
        ]
        indexes = [models.Index(fields=["state", "-id"], name="parked_state")]
        constraints = [
            # A message is parked once, however many of its copies are redelivered.
            models.UniqueConstraint(fields=["task_id"], condition=Q(state="parked"), name="parked_once"),
        ]

    def __str__(self) -> str:
        return f"{self.task}[{self.task_id}]"


class Decision(models.Model):
    """quarantine: who requeued or discarded a parked message, when and why. Never updated."""

    id = models.BigAutoField(primary_key=True)
    parked = models.ForeignKey(Parked, on_delete=models.PROTECT, related_name="decisions")
    decision = models.CharField(max_length=10, choices=[("requeue", "requeue"), ("discard", "discard")])
    by = models.CharField(max_length=255, help_text="The admin's user name, or the system user of the command.")
    why = models.TextField(blank=True)
    at = models.DateTimeField()

    class Meta:
        app_label = "tasks_demo_records"
        ordering = ["id"]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.decision} by {self.by}"


class ForgottenOperation(models.Model):
    """Who deleted the patterns' records of an operation, when and why. Committed before anything is deleted."""

    id = models.BigAutoField(primary_key=True)
    operation = models.CharField(max_length=255, db_index=True)
    task = models.CharField(max_length=255, blank=True, help_text="The task to which it was restricted; empty: all.")
    by = models.CharField(max_length=255, help_text="The admin's user name, or the system user of the command.")
    why = models.TextField()
    at = models.DateTimeField()
    removed = JSONText(default=list, help_text="The deleted records, by store.")
    outcome = models.TextField(help_text="How it ended; 'begun': the process was killed before it could record that.")

    class Meta:
        app_label = "tasks_demo_records"
        verbose_name = "forgotten operation"
        ordering = ["-id"]
        default_permissions = ("view",)
        permissions = [("forget_operation", "Can make the patterns forget an operation")]

    def __str__(self) -> str:
        return f"{self.operation} by {self.by}"
