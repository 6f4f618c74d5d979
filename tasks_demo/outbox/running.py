"""Tracks the outbox jobs that this process runs, and renews their leases from a thread.

What is **not** guaranteed: that a lease is renewed while the process is suspended or C code holds the GIL. Then it expires.

The first job starts the thread. The lease of a job that ends soon, within about a third of OUTBOX_LEASE_SECONDS, is never
renewed.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import defaultdict
from contextlib import suppress
from datetime import timedelta

from django.db import Error, connections
from django.utils.connection import ConnectionDoesNotExist

from tasks_demo.core.clock import Now
from tasks_demo.core.conf import settings
from tasks_demo.core.lifecycle import described
from tasks_demo.leases.process import this_process
from tasks_demo.records.models import OutboxMessage

logger = logging.getLogger(__name__)
#: Outbox alias, task ID, and generation of the copy.
Key = tuple[str, str, int]
#: Maximum number of finished jobs kept to be reported again. Beyond it the oldest are dropped, and published again.
MOST_UNREPORTED = 10_000


class Running:
    """The outbox jobs of one process. Thread-safe."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Reset all state, in a forked child too: it runs no job yet and does not have its parent's threads."""
        self._lock = threading.Lock()
        #: Location from reading a row to claiming it.
        self.claiming = threading.Lock()
        self._since: dict[Key, float] = {}
        self._unreported: dict[tuple[str, str], None] = {}
        self._thread: threading.Thread | None = None

    def __contains__(self, key: Key) -> bool:
        return key in self._since

    def add(self, key: Key, *, renew: bool = True) -> None:
        """Record that this process begins the job. Without ``renew`` no renewal thread is started, for a test whose rows only its
        own connection sees.
        """
        with self._lock:
            self._since[key] = time.monotonic()
        if renew:
            self._ensure_thread()

    def discard(self, key: Key) -> None:
        """Record that the job has ended."""
        with self._lock:
            self._since.pop(key, None)

    def finish_later(self, job: tuple[str, str]) -> None:
        """Report the finished job (alias, task ID) again later, because the outbox did not answer."""
        with self._lock:
            self._unreported[job] = None
            if len(self._unreported) > MOST_UNREPORTED:
                del self._unreported[next(iter(self._unreported))]
        self._ensure_thread()

    def renew(self, interval: float) -> None:
        """Renew the leases of jobs that began more than two thirds of ``interval`` (seconds) ago. Report finished jobs again."""
        begun_before = time.monotonic() - interval * 2 / 3
        with self._lock:
            long = [key[:2] for key, since in self._since.items() if since < begun_before]
            unreported = list(self._unreported)
        try:
            for alias, task_ids in _by_alias(long):
                lease = Now() + timedelta(seconds=settings.OUTBOX_LEASE_SECONDS)
                rows = OutboxMessage.objects.using(alias).filter(task_id__in=task_ids, finished_at=None)
                # Only rows claimed by this process: another process may hold the row by now.
                rows.filter(started_by__startswith=str(this_process(""))).update(seen_at=Now(), due_at=lease)
            for alias, task_ids in _by_alias(unreported):
                rows = OutboxMessage.objects.using(alias).filter(task_id__in=task_ids, finished_at=None)
                rows.update(finished_at=Now())
                with self._lock:
                    for task_id in task_ids:
                        self._unreported.pop((alias, task_id), None)
        except (Error, ConnectionDoesNotExist) as error:
            logger.warning(
                "The outbox did not answer when leases were renewed (%s); it is tried again.", described(error)
            )
        finally:
            if long or unreported:
                connections.close_all()  # this thread's own

    def _ensure_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._renew_continuously, name="outbox-leases", daemon=True)
            # At interpreter shutdown, or if no thread can be started, the lease simply expires.
            with suppress(RuntimeError):
                self._thread.start()

    def _renew_continuously(self) -> None:
        pause = threading.Event()
        while True:
            interval = settings.OUTBOX_LEASE_SECONDS / 3
            pause.wait(interval)
            try:
                self.renew(interval)
            except Exception:
                logger.exception("Renewing the leases of the outbox failed; the thread goes on.")


def _by_alias(jobs: list[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    found: dict[str, list[str]] = defaultdict(list)
    for alias, task_id in jobs:
        found[alias].append(task_id)
    return list(found.items())


running = Running()
os.register_at_fork(after_in_child=running.reset)
