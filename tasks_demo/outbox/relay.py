"""The relay of the outbox: publishes due messages, for the first time or again, each under its own task ID.

What is **not** guaranteed: that a message is published only once. It is published again

- if a relay died, or was stopped for longer than its lease, after the broker accepted the message and before the row was marked;
- if there is evidence that the message was lost (outbox/evidence.py), which can be wrong;
- if the worker that began it is dead or counts as dead.

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
#: If this many messages in a row are refused, the relay blames the broker, not the messages.
REFUSED_IN_A_ROW = 3
#: Seconds between two deletions of old rows, and the maximum number deleted each time.
PRUNE_EVERY_SECONDS, PRUNE_AT_ONCE = 600.0, 1000


@dataclass(frozen=True, slots=True)
class RelayResult:
    """The result of one batch. If ``trouble`` is not empty, the broker accepts no messages and the rest waits in the table."""

    taken: int = 0
    published: int = 0
    again: int = 0  # of those published: the number published before
    refused: int = 0  # each is retried separately
    waited: float = 0.0  # seconds for which the first row had been due
    #: Not published: waiting in the queue, held by a live worker, in quarantine, or ended.
    held: int = 0
    trouble: str = ""


class Relay:
    """Publishes the outbox on the alias ``using``. Not thread-safe. Several relays may share an outbox.

    A task that is not imported here is published by name, without the options of its declaration; its quarantine is then looked
    up on this alias, whatever its ``using`` says.
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
        """``interval``: pause in seconds when nothing is due. ``only``: the rows to publish; other relays publish the rest.
        ``connect``: opens a kombu connection with the given transport options, to a broker other than the app's.

        Without ``reconcile`` nothing is published again on suspicion: a message is finished once the broker has it, and a message
        that an earlier relay published is finished when it is due again. So all relays of an outbox need the same value.
        """
        app = app or current_app
        self._table = Table(app, using, only)
        self._publisher = Publisher(app, self._table.using, report=reconcile, connect=connect)
        self._reconciler = Reconciler(app, self._table, self._publisher)
        self._batch = batch
        self._interval = interval
        self._reconcile = reconcile
        self._unmarked: dict[int, str] = {}  # IDs of rows published and not yet marked, each with its queue
        self._prune_at = 0.0

    @property
    def using(self) -> str:
        """The alias of the outbox."""
        return self._table.using

    def run(self, stop: threading.Event) -> None:
        """Publish until ``stop`` is set. Backs off, with jitter, while the broker or the database does not answer."""
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
        """Publish one batch of due messages. Raises the database's errors; the broker's errors are in the result.

        Once ``stop`` is set, the current message is still published and the rest of the batch is released.
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
            # New messages first: collecting evidence takes time, and their lease is running.
            left = [row for row in wanted if row not in suspected]
            enough = time.monotonic() + settings.OUTBOX_UNSTARTED_SECONDS / 2  # the lease must not expire meanwhile
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
                except Exception as error:  # noqa: BLE001  (serializers and routers may raise anything; the other messages must go on)
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
        """Close the connection to the broker. The next message opens a new one."""
        self._publisher.close()

    def _mark(self) -> None:
        self._table.mark(self._unmarked, finished=not self._reconcile)
        self._unmarked.clear()

    def _failed(self, row: OutboxMessage, error: Exception, in_a_row: int) -> str:
        """Postpone this message. Returns what is wrong with the broker, or "" if only this message was refused."""
        unreachable = self._publisher.unreachable(error)
        self.close()
        # Even if the broker is unreachable: a message that makes the broker disconnect must not block the others.
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
        """Delete messages that finished before the retention period, by this machine's clock."""
        if time.monotonic() < self._prune_at:
            return
        deleted = prune(now() - timedelta(seconds=settings.RETENTION_SECONDS), self.using, most=PRUNE_AT_ONCE)
        if deleted:
            logger.info("Outbox %s: %d finished messages deleted.", self.using, deleted)
        if deleted < PRUNE_AT_ONCE:
            self._prune_at = time.monotonic() + PRUNE_EVERY_SECONDS


def _back_off(times: int) -> float:
    """Return the pause in seconds: half a second, doubling, at most DEFER_MAX_SECONDS, plus up to 25 % jitter so that many
    relays do not retry together.
    """
    return min(2.0 ** min(times - 2, 16), settings.DEFER_MAX_SECONDS) * (1 + random.random() / 4)


def _described(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, BrokerError) and error.__cause__ else error
    return f"{type(cause).__name__}: {' '.join(str(cause).split()).rstrip('.')}"
