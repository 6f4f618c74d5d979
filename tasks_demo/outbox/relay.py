"""The relay of the outbox: publishes what is due, for the first time or again, each under its own task ID.

What is **not** guaranteed: that a message is published once. It is published again when a relay died, or was stopped for longer
than its lease, after the broker had accepted the message and before the row was marked; when there is evidence that it was lost
(outbox/evidence.py), which can be wrong; and when the worker that began it is dead, or counts as dead.

    take:    due and unfinished rows ─ due_at += lease ─ COMMIT       SKIP LOCKED on PostgreSQL, the write lock on SQLite
    judge:   never published ▶ publish; begun ▶ does its worker live?; waiting ▶ was it lost?     outbox/reconciler.py
    publish: each, confirmed by the broker                            no transaction is open and no row is locked meanwhile
    mark:    published_at, publications + 1 ─ COMMIT                  one statement for the batch

The statements are in outbox/table.py, the broker's side in outbox/publisher.py.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from celery import current_app
from django.db import Error, connections
from django.db.models import Q
from django.utils.timezone import now
from kombu.exceptions import OperationalError as BrokerError

from tasks_demo.core.conf import settings
from tasks_demo.core.lifecycle import job_fields
from tasks_demo.outbox.publisher import Publisher
from tasks_demo.outbox.reconciler import Reconciler
from tasks_demo.outbox.table import Table, prune
from tasks_demo.records.models import OutboxMessage

logger = logging.getLogger(__name__)
#: After this many messages in a row that were refused, the broker is at fault and not the messages.
REFUSED_IN_A_ROW = 3
#: Seconds between two deletions of old rows, and the maximum number deleted in each.
PRUNE_EVERY_SECONDS, PRUNE_AT_ONCE = 600.0, 1000


@dataclass(frozen=True, slots=True)
class RelayResult:
    """What became of one batch. If ``trouble`` is not empty, the broker accepts no messages and the rest waits in the table."""

    taken: int = 0
    published: int = 0
    again: int = 0  # of the published: those that had been published before
    refused: int = 0  # each is tried again on its own
    waited: float = 0.0  # for how many seconds the first of them had been due
    #: Not published: it waits in its queue, its worker lives, it is in quarantine, or it has ended.
    held: int = 0
    trouble: str = ""


class Relay:
    """Publishes the outbox on the alias ``using``. Not for several threads at once; several relays may share an outbox.

    A task that was not imported here is published by its name, without the options of its declaration; its quarantine is then
    looked for on this alias, whatever its ``using`` says.
    """

    def __init__(
        self,
        *,
        using: str | None = None,
        batch: int = 100,
        interval: float = 0.5,
        reconcile: bool = True,
        app: Any = None,
        only: Q | None = None,
        connect: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        """``interval``: pause in seconds when nothing is due. ``only``: leave other rows to other relays. ``connect``: opens a
        connection of kombu's with these transport options, to another broker than the app's.

        Without ``reconcile`` nothing is published twice on suspicion: a message has finished when the broker has it, and what an
        earlier relay has published finishes when it is due again. So all relays of an outbox need the same value.
        """
        app = app or current_app
        self._table = Table(app, using, only)
        self._publisher = Publisher(app, self._table.using, report=reconcile, connect=connect)
        self._reconciler = Reconciler(app, self._table, self._publisher)
        self._batch = batch
        self._interval = interval
        self._reconcile = reconcile
        self._unmarked: dict[int, str] = {}  # row IDs that were published and not yet marked, each with its queue
        self._prune_at = 0.0

    @property
    def using(self) -> str:
        """The alias of the outbox."""
        return self._table.using

    def run(self, stop: threading.Event) -> None:
        """Publish until ``stop`` is set; backs off, with jitter, while the broker or the database does not answer."""
        failures = 0
        logger.info("Outbox %s: the relay looks every %g s for what is due.", self.using, self._interval)
        try:
            while not stop.is_set():
                try:
                    result = self.run_once(stop)
                    self._prune_now_and_then()
                except Error as error:
                    connections[self.using].close()
                    self._reconciler.silence_is_no_sign()
                    result = RelayResult(trouble=f"the database does not answer ({_described(error)})")
                if result.trouble:
                    failures += 1
                    pause = _back_off(failures)
                    logger.warning("Outbox %s: %s. Next attempt in %.1f s.", self.using, result.trouble, pause)
                else:
                    failures = 0
                    pause = 0.0 if result.taken == self._batch else self._interval
                stop.wait(pause)
        finally:
            self.close()

    def run_once(self, stop: threading.Event | None = None) -> RelayResult:
        """Publish one batch of what is due now. Raises the database's errors; the broker's are in the result.

        Once ``stop`` is set, the current message is published and the rest of the batch released.
        """
        self._mark()
        rows, waited = self._table.take(self._batch)
        if not rows:
            return RelayResult()
        wanted, left = self._table.wanted(rows, again=self._reconcile), []
        suspected = [row for row in wanted if self._reconcile and (row.started_by or row.published_at)]
        held = len(rows) - len(wanted)
        again = refused = in_a_row = 0
        trouble = ""
        try:
            # The new ones first: collecting evidence takes time, and their lease runs.
            left = [row for row in wanted if row not in suspected]
            enough = time.monotonic() + settings.OUTBOX_UNSTARTED_SECONDS / 2  # the lease must not run out meanwhile
            while not trouble and not (stop is not None and stop.is_set()):
                if not left and suspected:
                    left, held = self._reconciler.lost(suspected), held + len(suspected)
                    held, suspected = held - len(left), []
                    enough = time.monotonic() + settings.OUTBOX_UNSTARTED_SECONDS / 2
                if not left or time.monotonic() >= enough:
                    break
                row = left.pop(0)
                try:
                    queue = self._publisher.publish(row)
                except Exception as error:  # noqa: BLE001  (serializers and routers raise anything; the others must go on)
                    refused += 1
                    in_a_row += 1
                    trouble = self._failed(row, error, in_a_row)
                else:
                    self._unmarked[row.id] = queue
                    again += row.publications > 0
                    in_a_row = 0
        finally:
            published = len(self._unmarked)
            self._mark()
            left += suspected
            self._table.release(left)
        logger.log(
            logging.INFO if len(rows) > held else logging.DEBUG,
            "Outbox %s: %d published, %d of them again, %d refused, %d held, %d released; the first had waited %.1f s.",
            self.using, published, again, refused, held, len(left), waited,
        )  # fmt: skip
        return RelayResult(len(rows), published, again, refused, waited, held, trouble)

    def close(self) -> None:
        """Close the connection to the broker; the next message opens a new one."""
        self._publisher.close()

    def _mark(self) -> None:
        self._table.mark(self._unmarked, finished=not self._reconcile)
        self._unmarked.clear()

    def _failed(self, row: OutboxMessage, error: Exception, in_a_row: int) -> str:
        """Postpone this message; returns what is wrong with the broker, or "" if the message alone was refused."""
        unreachable = self._publisher.unreachable(error)
        self.close()
        # Even if the broker is unreachable: a message that makes it hang up must not stay in front of the others.
        self._table.postpone(row, _back_off(row.failures + 1), _described(error))
        if unreachable:
            return f"the broker does not answer ({_described(error)})"
        logger.warning(
            "Outbox %s: %s was not published (%s). It is tried again later.",
            self.using, row, _described(error), extra=job_fields(task_id=row.task_id),
        )  # fmt: skip
        return (
            f"{in_a_row} messages in a row were refused ({_described(error)})" if in_a_row >= REFUSED_IN_A_ROW else ""
        )

    def _prune_now_and_then(self) -> None:
        """Delete what finished longer ago than the retention, by this machine's clock."""
        if time.monotonic() < self._prune_at:
            return
        deleted = prune(now() - timedelta(seconds=settings.RETENTION_SECONDS), self.using, most=PRUNE_AT_ONCE)
        if deleted:
            logger.info("Outbox %s: %d finished messages deleted.", self.using, deleted)
        if deleted < PRUNE_AT_ONCE:
            self._prune_at = time.monotonic() + PRUNE_EVERY_SECONDS


def _back_off(times: int) -> float:
    """Seconds: half a second, doubling, bounded; with jitter, so that many do not return together."""
    return min(2.0 ** min(times - 2, 16), settings.DEFER_MAX_SECONDS) * (1 + random.random() / 4)


def _described(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, BrokerError) and error.__cause__ else error
    return f"{type(cause).__name__}: {' '.join(str(cause).split()).rstrip('.')}"
