"""The table of worker processes, written by the workers themselves (``hooks.presence``): evidence of which worker held a job."""

from __future__ import annotations

from django.db import models


class WorkerProcess(models.Model):
    """One worker process: when it last reported, and which jobs it held then."""

    id = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=255, help_text="The worker's name in events: celery@host.")
    host = models.CharField(max_length=255, blank=True)
    pid = models.IntegerField(help_text="The pid of the worker's main process.")
    process = models.CharField(max_length=255, help_text="Boot and pid namespace, pid, start: see leases.process.")
    pool = models.CharField(max_length=80, blank=True)
    queues = models.JSONField(default=list)
    started_at = models.DateTimeField(help_text="By the worker's clock, like its events.")
    seen_at = models.DateTimeField(help_text="When it last reported, by the database's clock.")
    stopped_at = models.DateTimeField(
        null=True, help_text="When it stopped normally; null: it is running, or was killed."
    )
    held = models.JSONField(default=list, help_text="Task IDs that it held when it last reported.")
    held_more = models.IntegerField(default=0, help_text="The number of further task IDs, which are not listed.")
    last_event = models.BigIntegerField(default=0, help_text="The ledger's last event before that list was made.")

    class Meta:
        app_label = "tasks_demo"
        default_permissions = ()
        indexes = [models.Index(fields=["name", "id"], name="workerprocess_name")]

    def __str__(self) -> str:
        return f"{self.name} ({self.pid})"
