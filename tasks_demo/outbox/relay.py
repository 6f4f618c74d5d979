"""The relay of the outbox: publishes due messages, for the first time or again, each under its own task ID.

What is **not** guaranteed: that a message is published only once. It is published again

- if a relay died, or was stopped for longer than its lease, after the broker accepted the message and before the row was marked;
- if the broker's answers to up to AT_ONCE messages were lost, with the connection for example;
- if there is evidence that the message was lost (outbox/evidence.py), which can be wrong;
- if the worker that began it is dead or counts as dead.

    take:    due and unfinished rows ─ due_at += lease ─ COMMIT       SKIP LOCKED on PostgreSQL, the write lock on SQLite
    judge:   never published ▶ publish; begun ▶ does its worker live?; waiting ▶ was it lost?     outbox/reconciler.py
    publish: together, each confirmed by the broker                   no transaction is open and no row is locked meanwhile
    mark:    published_at, publications + 1 ─ COMMIT                  one statement, for those that are confirmed

A relay looks when a commit wakes it (outbox/wake.py), and every ``interval`` seconds. The statements are in outbox/table.py, the
broker's side in outbox/publisher.py and outbox/batches.py.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db import Error, connections
from django.db.models import Q
from django.utils.timezone import now
from kombu.exceptions import OperationalError as BrokerError

from tasks_demo.core.conf import settings
from tasks_demo.core.lifecycle import described, job_fields
from tasks_demo.core.wording import counted
from tasks_demo.outbox.publisher import Publisher
from tasks_demo.outbox.reconciler import Reconciler
from tasks_demo.outbox.table import Table, prune
from tasks_demo.outbox.wake import WakeUps
from tasks_demo.records.models import OutboxMessage

logger = logging.getLogger(__name__)
#: Number of messages handed to the broker, and marked, together.
AT_ONCE = 100
#: If this many messages in a row are refused, the relay blames the broker, not the messages.
REFUSED_IN_A_ROW = 3
#: Seconds between two deletions of old rows, and the maximum number deleted each time.
PRUNE_EVERY_SECONDS, PRUNE_AT_ONCE = 600.0, 1000


@dataclass(frozen=True, slots=True)
class RelayResult:
    """The result of one batch. If ``trouble`` is not empty, the broker accepts no messages and the rest waits in the table."""

    taken: int = 0
    published: int = 0
    republished: int = 0  # of those: the number that had been published before
    refused: int = 0  # each is retried separately
    waited: float = 0.0  # seconds for which the first row had been due
    #: Not published: waiting in the queue, held by a live worker, in quarantine, or ended.
    held: int = 0
    trouble: str = ""


@dataclass(slots=True)
class _Run:
    """The progress of one batch of due rows."""

    published: int = 0
    republished: int = 0
    refused: int = 0
    in_a_row: int = 0  # refused since the last one that was confirmed
    trouble: str = ""
    one_by_one: bool = False
    put_off: list[OutboxMessage] = field(default_factory=list)  # refused because of the broker: due again at once


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
        only: Q | None = None,
        connect: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        """``interval``: pause in seconds when nothing is due and no commit wakes the relay. ``only``: the rows to publish; other
        relays publish the rest. ``connect``: opens a kombu connection with the given transport options, to a broker other than
        the app's.

        Without ``reconcile`` nothing is published again on suspicion: a message is finished once the broker has it, and a message
        that an earlier relay published is finished when it is due again. So all relays of an outbox need the same value.
        """
        self._table = Table(using, only)
        self._publisher = Publisher(self._table.using, report=reconcile, connect=connect)
        self._reconciler = Reconciler(self._table, self._publisher)
        self._batch = batch
        self._interval = interval
        self._reconcile = reconcile
        self._wake_ups = WakeUps(self._table.using)
        self._unmarked: dict[int, str] = {}  # IDs of rows published and not yet marked, each with its queue
        self._prune_at = 0.0

    @property
    def using(self) -> str:
        """The alias of the outbox."""
        return self._table.using

    def run(self, stop: threading.Event) -> None:
        """Publish until ``stop`` is set. Backs off, with jitter, while the broker or the database does not answer."""
        failures = 0
        logger.info(
            "Outbox %s: the relay looks every %g s for what is due, and after commits.", self.using, self._interval
        )
        try:
            while not stop.is_set():
                try:
                    result = self.run_once(stop)
                    self._prune_now_and_then()
                except Error as error:
                    connections[self.using].close()
                    self._reconciler.disregard_silence()
                    result = RelayResult(trouble=f"the database does not answer ({_described(error)})")
                if result.trouble:
                    failures += 1
                    pause = _back_off(failures)
                    logger.warning("Outbox %s: %s. Next attempt in %.1f s.", self.using, result.trouble, pause)
                    stop.wait(pause)
                else:
                    failures = 0
                    if result.taken < self._batch:
                        self._wake_ups.wait(self._interval, stop)
        finally:
            self._wake_ups.close()
            self.close()

    def run_once(self, stop: threading.Event | None = None) -> RelayResult:
        """Publish one batch of due messages. Raises the database's errors; the broker's errors are in the result.

        Once ``stop`` is set, the messages that are being handed over are still published; the rest of the batch is released.
        """
        self._mark()
        rows, waited = self._table.take(self._batch)
        if not rows:
            return RelayResult()
        wanted, left = self._table.wanted(rows, again=self._reconcile), []
        suspected = [row for row in wanted if self._reconcile and (row.started_by or row.published_at)]
        held = len(rows) - len(wanted)
        run = _Run()
        try:
            # New messages first: collecting evidence takes time, and their lease is running.
            left = [row for row in wanted if row not in suspected]
            enough = time.monotonic() + settings.OUTBOX_UNSTARTED_SECONDS / 2  # the lease must not expire meanwhile
            while not run.trouble and not (stop is not None and stop.is_set()):
                if not left and suspected:
                    left, held = self._reconciler.lost(suspected), held + len(suspected)
                    held, suspected = held - len(left), []
                    enough = time.monotonic() + settings.OUTBOX_UNSTARTED_SECONDS / 2
                if not left or time.monotonic() >= enough:
                    break
                together = _first(left, 1 if run.one_by_one else AT_ONCE)
                left = self._hand_over(together, run) + left[len(together) :]
        finally:
            self._mark()
            left += suspected + run.put_off
            self._table.release(left)
        logger.log(
            logging.INFO if len(rows) > held else logging.DEBUG,
            "Outbox %s: %d published, %d of them again, %d refused, %d held, %d released; the first had waited %.1f s.",
            self.using, run.published, run.republished, run.refused, held, len(left), waited,
        )  # fmt: skip
        return RelayResult(len(rows), run.published, run.republished, run.refused, waited, held, run.trouble)

    def _hand_over(self, rows: list[OutboxMessage], run: _Run) -> list[OutboxMessage]:
        """Publish these together. Returns those to publish one by one, because their answers are missing."""
        answers = self._publisher.publish(rows)
        self._unmarked |= answers.confirmed
        run.published += len(answers.confirmed)
        run.republished += sum(row.publications > 0 for row in rows if row.id in answers.confirmed)
        unsure = [row for row in rows if row.id not in answers.confirmed and row.id not in answers.refused]
        if unsure and len(rows) == 1 and answers.missing is not None:
            answers.refused[rows[0].id] = answers.missing
            unsure = []
        for row in rows:
            if row.id in answers.confirmed:
                run.in_a_row, run.trouble = 0, ""
            elif row.id in answers.refused:
                self._refused(row, answers.refused[row.id], run)
        if answers.missing is not None:
            self._publisher.close()
        if not unsure:
            self._mark()
            return []
        # One of them may have ended the connection, and the next batch with it. Publish one by one to find out which.
        run.one_by_one = True
        logger.info(
            "Outbox %s: the broker did not confirm %s (%s). Published one by one now; a second copy of what it has is not run.",
            self.using, counted(len(unsure), "message"), _described(answers.missing or RuntimeError("no answer")),
        )  # fmt: skip
        # A worker that has begun one proves that the broker had it.
        still = set(self._table.leased(unsure).values_list("id", flat=True))
        return [row for row in unsure if row.id in still]

    def _refused(self, row: OutboxMessage, error: Exception, run: _Run) -> None:
        """Postpone this message, unless the broker is to blame for it: then it is due again at once."""
        if run.in_a_row >= REFUSED_IN_A_ROW:
            run.put_off.append(row)
            return
        run.refused += 1
        run.in_a_row += 1
        unreachable = self._publisher.unreachable(error)
        # Even if the broker is unreachable: a message that makes the broker disconnect must not block the others.
        self._table.postpone(row, _back_off(row.failures + 1), _described(error))
        if unreachable:
            run.trouble = f"the broker does not answer ({_described(error)})"
            return
        if run.in_a_row >= REFUSED_IN_A_ROW:
            run.trouble = f"{run.in_a_row} messages in a row were refused ({_described(error)})"
        logger.warning(
            "Outbox %s: %s was not published (%s). It is tried again later.",
            self.using, row, _described(error), extra=job_fields(task_id=row.task_id),
        )  # fmt: skip

    def close(self) -> None:
        """Close the connection to the broker. The next message opens a new one."""
        self._publisher.close()

    def _mark(self) -> None:
        self._table.mark(self._unmarked, finished=not self._reconcile)
        self._unmarked.clear()

    def _prune_now_and_then(self) -> None:
        """Delete messages that finished before the retention period, by this machine's clock."""
        if time.monotonic() < self._prune_at:
            return
        deleted = prune(now() - timedelta(seconds=settings.RETENTION_SECONDS), self.using, most=PRUNE_AT_ONCE)
        if deleted:
            logger.info("Outbox %s: %d finished messages deleted.", self.using, deleted)
        if deleted < PRUNE_AT_ONCE:
            self._prune_at = time.monotonic() + PRUNE_EVERY_SECONDS


def _first(rows: list[OutboxMessage], most: int) -> list[OutboxMessage]:
    """Return the first rows that may be handed over together. One that failed before goes alone: it might end the connection."""
    for number, row in enumerate(rows[:most]):
        if row.failures:
            return rows[: max(number, 1)]
    return rows[:most]


def _back_off(times: int) -> float:
    """Return the pause in seconds: half a second, doubling, at most DEFER_MAX_SECONDS, plus up to 25 % jitter so that many
    relays do not retry together.
    """
    return min(2.0 ** min(times - 2, 16), settings.DEFER_MAX_SECONDS) * (1 + random.random() / 4)


def _described(error: BaseException) -> str:
    return described(error.__cause__ if isinstance(error, BrokerError) and error.__cause__ else error)
