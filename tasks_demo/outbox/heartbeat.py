"""The jobs of an outbox that this process runs, and the thread that renews their leases.

The first job starts the thread. A job that ends within a third of OUTBOX_LEASE_SECONDS costs it nothing. What is **not**
guaranteed: a renewal while the process is suspended, or while C code keeps Python's lock; the lease then runs out.
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
from tasks_demo.leases.process import this_process
from tasks_demo.records.models import OutboxMessage

logger = logging.getLogger(__name__)
#: Alias of the outbox, task ID, generation of the copy.
Key = tuple[str, str, int]
#: Finished jobs whose mark is tried again, at most; beyond this the oldest are published again.
MOST_OWED = 10_000


class Running:
    """One per process; safe to use from several threads."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Of a forked child: it runs nothing yet, and its parent's threads are not here."""
        self._lock = threading.Lock()
        #: Held while a claim is decided by what was read before.
        self.claiming = threading.Lock()
        self._since: dict[Key, float] = {}
        self._owed: dict[tuple[str, str], None] = {}
        self._thread: threading.Thread | None = None

    def __contains__(self, key: Key) -> bool:
        return key in self._since

    def add(self, key: Key, *, beats: bool = True) -> None:
        """This process begins that job. Without ``beats`` no thread is started that would renew its lease: in a test, whose
        rows only its own connection sees."""
        with self._lock:
            self._since[key] = time.monotonic()
        if beats:
            self._ensure_thread()

    def discard(self, key: Key) -> None:
        """It has ended."""
        with self._lock:
            self._since.pop(key, None)

    def owe(self, key: tuple[str, str]) -> None:
        """It has ended, and the outbox did not take the mark: it is tried again."""
        with self._lock:
            self._owed[key] = None
            if len(self._owed) > MOST_OWED:
                del self._owed[next(iter(self._owed))]
        self._ensure_thread()

    def beat(self, interval: float) -> None:
        """Renew the leases of the jobs that began more than two thirds of an interval ago, and make the marks that are owed."""
        begun_before = time.monotonic() - interval * 2 / 3
        with self._lock:
            long = [key[:2] for key, since in self._since.items() if since < begun_before]
            owed = list(self._owed)
        try:
            for alias, task_ids in _by_alias(long):
                lease = Now() + timedelta(seconds=settings.OUTBOX_LEASE_SECONDS)
                rows = OutboxMessage.objects.using(alias).filter(task_id__in=task_ids, finished_at=None)
                rows.filter(started_by__startswith=_me()).update(seen_at=Now(), due_at=lease)
            for alias, task_ids in _by_alias(owed):
                OutboxMessage.objects.using(alias).filter(task_id__in=task_ids, finished_at=None).update(
                    finished_at=Now()
                )
                with self._lock:
                    for task_id in task_ids:
                        self._owed.pop((alias, task_id), None)
        except (Error, ConnectionDoesNotExist) as error:
            logger.warning(
                "The outbox did not take a sign of life (%s: %s); it is tried again.", type(error).__name__, error
            )
        finally:
            if long or owed:
                connections.close_all()  # this thread's own

    def _ensure_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._beat_for_ever, name="outbox-leases", daemon=True)
            with suppress(
                RuntimeError
            ):  # the interpreter is about to end, or no thread is to be had: the lease ends by itself
                self._thread.start()

    def _beat_for_ever(self) -> None:
        pause = threading.Event()
        while True:
            interval = settings.OUTBOX_LEASE_SECONDS / 3
            pause.wait(interval)
            try:
                self.beat(interval)
            except Exception:
                logger.exception("The leases of the outbox: the thread goes on.")


def _me() -> str:
    """What every claim of this process begins with."""
    return str(this_process(""))


def _by_alias(keys: list[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    found: dict[str, list[str]] = defaultdict(list)
    for alias, task_id in keys:
        found[alias].append(task_id)
    return list(found.items())


running = Running()
os.register_at_fork(after_in_child=running.reset)
