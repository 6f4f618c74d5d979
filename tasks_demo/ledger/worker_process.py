"""The table of worker processes, which the workers write themselves (``hooks.presence``): evidence of who held which job."""

from __future__ import annotations

from django.db import models


class WorkerProcess(models.Model):
    """One start of a worker: which process it is, when it last reported, and which jobs it held then (``hooks.presence``)."""

    id = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=255, help_text="The worker's name in events: celery@host.")
    host = models.CharField(max_length=255, blank=True)
    pid = models.IntegerField(help_text="Of the worker's main process.")
    process = models.CharField(max_length=255, help_text="Boot and pid namespace, pid, start: see leases.process.")
    pool = models.CharField(max_length=80, blank=True)
    queues = models.JSONField(default=list)
    started_at = models.DateTimeField(help_text="Clock of the worker, as that of its events.")
    seen_at = models.DateTimeField(help_text="It last reported; clock of the database.")
    stopped_at = models.DateTimeField(null=True, help_text="It ended by itself; null: it runs, or was killed.")
    held = models.JSONField(default=list, help_text="Task IDs that it held when it last reported.")
    held_more = models.IntegerField(default=0, help_text="Further ones that are not listed.")
    last_event = models.BigIntegerField(default=0, help_text="The ledger's last event before that list was made.")

    class Meta:
        app_label = "tasks_demo"
        default_permissions = ()
        indexes = [models.Index(fields=["name", "id"], name="workerprocess_name")]

    def __str__(self) -> str:
        return f"{self.name} ({self.pid})"
