"""Rows of worker processes for tests of screens: one whose process has really ended, and others."""

from __future__ import annotations

import subprocess
import time
from typing import Any

from django.utils import timezone

from tasks_demo.core import clock
from tasks_demo.leases.process import Process, this_process
from tasks_demo.ledger.models import Event
from tasks_demo.ledger.worker_process import WorkerProcess
from tests.integration.ledger.ledger_rows import START


def ended_process() -> Process:
    """A process of this machine that is gone."""
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        with open(f"/proc/{process.pid}/stat") as file:
            start = file.read().rpartition(")")[2].split()[19]
        process.kill()
    return Process(this_process("").where, process.pid, start, "")


def row(name: str = "w1@test", process: Process | None = None, **fields: Any) -> WorkerProcess:
    """A worker that was killed, or is ``process``; it began shortly before the histories of ``ledger_rows``."""
    process = process or ended_process()
    known = {
        "host": "host-1",
        "pool": "prefork, 2",
        "queues": ["celery"],
        "started_at": clock.from_epoch(START - 5),
        "seen_at": timezone.now(),
        # Its last report was before everything that the ledger has now.
        "last_event": (Event.objects.order_by("id").values_list("id", flat=True).first() or 1) - 1,
    }
    return WorkerProcess.objects.create(name=name, pid=process.pid, process=str(process), **{**known, **fields})


def elsewhere(name: str, silent: float, **fields: Any) -> WorkerProcess:
    """A worker of another machine that last reported ``silent`` seconds ago."""
    process = Process("another-boot/pid:[1]", 4711, "100", "")
    return row(name, process, seen_at=clock.from_epoch(time.time() - silent), **fields)
