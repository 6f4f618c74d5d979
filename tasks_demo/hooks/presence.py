"""Keeps one row per worker process: which process it is, when it last reported, and which jobs it holds.

A killed worker leaves its row. Together with the ledger's events after ``last_event`` it shows which jobs the worker held when it
died.

Does **not** guarantee that a row is up to date: a report that fails is skipped, and the next one follows after BEAT_SECONDS. A
worker that was killed before its first report has no row. What the worker holds
is what ``holding`` knows.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
import traceback
from contextlib import ExitStack
from typing import Any

from celery import signals
from django.db import Error, connections
from django.utils.connection import ConnectionDoesNotExist

from tasks_demo.core import clock
from tasks_demo.core.clock import Now
from tasks_demo.core.conf import settings
from tasks_demo.core.limited_log import limited_log
from tasks_demo.hooks import holding
from tasks_demo.leases.process import this_process
from tasks_demo.ledger.database import alias, off_in_tests, on_primary, unsupported
from tasks_demo.ledger.events import LONGEST, storable
from tasks_demo.ledger.models import Event
from tasks_demo.ledger.store import store
from tasks_demo.ledger.worker_process import WorkerProcess

logger = logging.getLogger(__name__)
#: Pause between two reports, seconds.
BEAT_SECONDS = 5.0
#: Maximum number of task IDs in one report.
MOST_HELD = 1000
#: Maximum time that a stopping worker waits for its last report, seconds.
LAST_REPORT_SECONDS = 1.0
#: Maximum time that a report, and so a concurrent fork, waits for SQLite's write lock, seconds.
LOCK_SECONDS = 1.0


class Presence:
    """Reports for one worker's main process, from a thread of its own."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._ending = threading.Event()
        self._row: int | None = None
        self._started_at = clock.from_epoch(time.time())
        self._thread = threading.Thread(target=self._report_until_end, name="worker-presence", daemon=True)

    def begin(self) -> None:
        """Report now, and then every BEAT_SECONDS."""
        self._thread.start()

    def end(self) -> None:
        """Report that the worker is stopping normally; wait at most LAST_REPORT_SECONDS for the report."""
        self._ending.set()
        self._thread.join(LAST_REPORT_SECONDS)

    def _report_until_end(self) -> None:
        while True:
            ending = self._ending.is_set()
            with ExitStack() as until_closed:
                self._try_to_report(until_closed, ending=ending)
            if ending:
                return
            self._ending.wait(BEAT_SECONDS)

    def _try_to_report(self, until_closed: ExitStack, *, ending: bool) -> None:
        """Report once. No error ends the thread, not even one of the project's database router."""
        try:
            connection = connections[alias()]
            if connection.vendor == "sqlite":
                # While this process does not fork: a child must not inherit SQLite's connection (docs/decisions/0022).
                until_closed.enter_context(store.lock)
                with connection.cursor() as cursor:
                    cursor.execute(f"PRAGMA busy_timeout = {LOCK_SECONDS * 1000:.0f}")
            self._report(ending=ending)
        except (Error, ConnectionDoesNotExist) as error:
            # As text: a log handler that keeps the error would keep its cursor, and so SQLite's connection, open.
            limited_log(
                logger, logging.WARNING, ("presence", type(error).__name__),
                "The ledger did not store this worker's report (%s: %s). Jobs are not affected; the dashboard shows an older "
                "report until one succeeds.",
                type(error).__name__, str(error),
            )  # fmt: skip
            _release_cursors(error)
        except Exception as error:
            logger.exception(
                "This worker's report failed. Jobs are not affected; the next report follows in %g s.", BEAT_SECONDS
            )
            _release_cursors(error)
        finally:
            connections.close_all()  # this thread's own

    def _report(self, *, ending: bool) -> None:
        # In this order: a job that is received after the list was made has an event after last_event.
        last_event = on_primary(Event).order_by("-id").values_list("id", flat=True).first() or 0
        held = sorted(
            {storable(task_id)[: LONGEST["task_id"]] for task_id in holding.unfinished_task_ids(self._consumer)}
        )
        report: dict[str, Any] = {
            "seen_at": Now(),
            "held": held[:MOST_HELD],
            "held_more": max(len(held) - MOST_HELD, 0),
            "last_event": last_event,
            "stopped_at": Now() if ending else None,
        }
        if self._row is None:
            self._row = self._insert(report)
        else:
            on_primary(WorkerProcess).filter(pk=self._row).update(**report)

    def _insert(self, report: dict[str, Any]) -> int:
        me, controller = this_process(""), self._consumer.controller
        pool = controller.pool_cls if isinstance(controller.pool_cls, str) else controller.pool_cls.__module__
        rows = on_primary(WorkerProcess)
        if keep := settings.LEDGER_RETENTION_SECONDS:
            rows.filter(seen_at__lt=clock.from_epoch(time.time() - keep)).delete()
        row = rows.create(
            name=storable(self._consumer.hostname)[: LONGEST["worker"]],
            host=socket.gethostname()[:255],
            pid=me.pid,
            process=str(me),
            pool=f"{pool.rpartition('.')[2]}, {controller.concurrency}"[:80],
            queues=sorted(storable(queue.name) for queue in self._consumer.task_consumer.queues),
            started_at=self._started_at,
            **report,
        )
        return int(row.pk)


def _release_cursors(error: BaseException) -> None:
    """Clear the frames of an error: a cursor that they reference keeps SQLite's connection open."""
    for each in (error, error.__cause__):
        if each is not None:
            traceback.clear_frames(each.__traceback__)


_presence: Presence | None = None


@signals.worker_ready.connect(weak=False, dispatch_uid="tasks_demo.presence")
def _ready(sender: Any = None, **_: Any) -> None:
    global _presence
    if not settings.LEDGER or off_in_tests() or unsupported():
        return
    _presence = Presence(sender)
    _presence.begin()


@signals.worker_shutdown.connect(weak=False, dispatch_uid="tasks_demo.presence")
def _stopped(**_: Any) -> None:
    if _presence is not None:
        _presence.end()
