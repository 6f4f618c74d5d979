"""The relay of the outbox: publishes what is due, for the first time or again, each under its own task ID.

What is **not** guaranteed: that a message is published once. It is published again when a relay died, or was stopped for longer
than the wait, after the broker had taken the message and before the row was marked; when there is evidence that it was lost
(see ``outbox_evidence``), which can be wrong; and when the worker that began it is dead, or counts as dead.

    take:    due and unfinished rows ─ due_at += wait ─ COMMIT        SKIP LOCKED on PostgreSQL, the write lock on SQLite
    judge:   never published ▶ publish; begun ▶ does its worker live?; waiting ▶ was it lost?     delivery/suspects.py
    publish: each, confirmed by the broker                            no transaction is open and no row is locked meanwhile
    mark:    published_at, publications + 1 ─ COMMIT                  one statement for the batch

Taking is a lease: nobody else takes these rows before ``due_at``, and whoever dies holding them gives them back by then. So
several relays may run at once, on SQLite too, and the reconciler is no second mechanism.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Any

from celery import current_app
from django.db import Error, connections, router, transaction
from django.db.models import Case, F, QuerySet, TextField, Value, When
from django.db.models.functions import Coalesce
from django.utils.connection import ConnectionDoesNotExist
from django.utils.timezone import now
from kombu.exceptions import OperationalError as BrokerError

from tasks_demo.core import clock
from tasks_demo.core.clock import Now
from tasks_demo.core.conf import settings
from tasks_demo.core.lifecycle import job_fields
from tasks_demo.core.wording import counted
from tasks_demo.outbox.enqueue import prune
from tasks_demo.outbox.evidence import next_look
from tasks_demo.outbox.progress import HEADER, first_look
from tasks_demo.outbox.suspects import Suspects
from tasks_demo.patterns.attempts import alias_of
from tasks_demo.patterns.base import PatternTask
from tasks_demo.records.models import OutboxMessage, Parked

logger = logging.getLogger(__name__)
#: Bound on one hand-over to the broker, seconds.
BROKER_SECONDS = 5.0
#: So many messages refused one after the other are the broker's trouble, not theirs.
REFUSED_IN_A_ROW = 3
#: Seconds between two looks for old rows, and how many are removed in one go.
PRUNE_EVERY_SECONDS, PRUNE_AT_ONCE = 600.0, 1000


@dataclass(frozen=True, slots=True)
class RelayResult:
    """What became of one batch. ``trouble`` is not empty when the broker does not take messages: the rest waits in the table."""

    taken: int = 0
    published: int = 0
    again: int = 0  # of the published: those that had been published before
    refused: int = 0  # each waits for its own next attempt
    waited: float = 0.0  # how long ago the first of them was due, in seconds
    held: int = (
        0  # not published: it waits in its queue, its worker lives, it is in quarantine, or it ended as it was due
    )
    trouble: str = ""


def overdue(using: str | None = None) -> float:
    """For how many seconds the first message has been due; 0: none is. What to watch: it grows while no relay works."""
    rows = OutboxMessage.objects.using(using or router.db_for_write(OutboxMessage)).filter(finished_at=None)
    first: Any = rows.filter(due_at__lte=Now()).annotate(asked_at=Now()).order_by("due_at", "id").first()
    return (first.asked_at - first.due_at).total_seconds() if first else 0.0


class Relay:
    """Publishes the outbox on the alias ``using``. Not for several threads at once; several relays may share an outbox.

    A task that was not imported here is published by its name, without the options of its declaration: what it has in quarantine
    is then looked for on this alias, whatever its ``using`` says.
    """

    def __init__(
        self,
        *,
        using: str | None = None,
        batch: int = 100,
        interval: float = 0.5,
        reconcile: bool = True,
        app: Any = None,
    ) -> None:
        """``interval``: pause in seconds when nothing is due.

        Without ``reconcile`` nothing is published twice on suspicion: a message has ended when the broker has it, and what an
        earlier relay has published ends when it is due again. So all relays of an outbox must be told the same.
        """
        self.using = using or router.db_for_write(OutboxMessage)
        self._batch = batch
        self._interval = interval
        self._reconcile = reconcile
        self._app = app or current_app
        self._connection: Any = None
        self._unmarked: dict[int, str] = {}  # published, to which queue, and the database has not been told
        self._suspects = Suspects(self)
        self._prune_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Publish until ``stop`` is set; backs off, with jitter, while the broker or the database does not answer."""
        troubles = 0
        logger.info("Outbox %s: the relay looks every %g s for what is due.", self.using, self._interval)
        try:
            while not stop.is_set():
                try:
                    result = self.run_once(stop)
                    self._prune_now_and_then()
                except Error as error:
                    connections[self.using].close()
                    self._suspects.silence_is_no_sign()
                    result = RelayResult(trouble=f"the database does not answer ({_said(error)})")
                if result.trouble:
                    troubles += 1
                    pause = _back_off(troubles)
                    logger.warning("Outbox %s: %s. Next attempt in %.1f s.", self.using, result.trouble, pause)
                else:
                    troubles = 0
                    pause = 0.0 if result.taken == self._batch else self._interval
                stop.wait(pause)
        finally:
            self.close()

    def run_once(self, stop: threading.Event | None = None) -> RelayResult:
        """Publish one batch of what is due now. Raises the database's errors; the broker's are in the result.

        Once ``stop`` is set, the message in hand is published and the rest of the batch released.
        """
        self._mark()
        rows, waited = self._take()
        if not rows:
            return RelayResult()
        wanted, left = self._wanted(rows), []
        suspected = [row for row in wanted if self._reconcile and (row.started_by or row.published_at)]
        held = len(rows) - len(wanted)
        again = refused = in_a_row = 0
        trouble = ""
        try:
            # The new ones first: to collect evidence takes time, and their lease runs.
            left = [row for row in wanted if row not in suspected]
            enough = time.monotonic() + settings.OUTBOX_UNSTARTED_SECONDS / 2  # the lease must not run out under way
            while not trouble and not (stop is not None and stop.is_set()):
                if not left and suspected:
                    left, held = self._suspects.lost(suspected), held + len(suspected)
                    held, suspected = held - len(left), []
                    enough = time.monotonic() + settings.OUTBOX_UNSTARTED_SECONDS / 2
                if not left or time.monotonic() >= enough:
                    break
                row = left.pop(0)
                try:
                    self._publish(row)
                except Exception as error:  # noqa: BLE001  (serializers and routers raise anything; the others must go on)
                    refused += 1
                    in_a_row += 1
                    trouble = self._failed(row, error, in_a_row)
                else:
                    self._unmarked[row.id] = self._queue(row)
                    again += row.publications > 0
                    in_a_row = 0
        finally:
            published = len(self._unmarked)
            self._mark()
            left += suspected
            self._leased(left).update(due_at=Now())  # released, to this relay or another
        logger.log(
            logging.INFO if len(rows) > held else logging.DEBUG,
            "Outbox %s: %d published, %d of them again, %d refused, %d held, %d released; the first had waited %.1f s.",
            self.using, published, again, refused, held, len(left), waited,
        )  # fmt: skip
        return RelayResult(len(rows), published, again, refused, waited, held, trouble)

    def close(self) -> None:
        """Close the connection to the broker; the next message opens a new one."""
        if self._connection is not None:
            self._connection.release()
            self._connection = None

    # -- the table ----------------------------------------------------------------------------------------------------------

    def _rows(self) -> QuerySet[OutboxMessage]:
        """The messages that are this relay's business; a subclass may narrow them."""
        return OutboxMessage.objects.using(self.using)

    def _leased(self, rows: list[OutboxMessage]) -> QuerySet[OutboxMessage]:
        """Of these, the ones that nobody has touched since they were taken: no worker began them, no other relay has them."""
        return self._rows().filter(id__in=[row.id for row in rows], due_at__in={row.due_at for row in rows})

    def _take(self) -> tuple[list[OutboxMessage], float]:
        """Lease the next batch: nobody else takes it before the wait is over. Also how long the first was due, in seconds."""
        due = self._rows().filter(finished_at=None, due_at__lte=Now())
        if not due.exists():  # so that an idle relay takes no write lock
            return [], 0.0
        # durable: inside another transaction it would publish what may be rolled back.
        with transaction.atomic(using=self.using, durable=True):
            if connections[self.using].vendor == "sqlite":
                # The first statement writes: a transaction that began as a reader may be refused as a writer, at once.
                self._rows().filter(id=-1).update(failures=0)
            locked = due.select_for_update(skip_locked=True).order_by("due_at", "id")
            rows: list[Any] = list(locked.annotate(taken_at=Now())[: self._batch])
            waited = (rows[0].taken_at - rows[0].due_at).total_seconds() if rows else 0.0
            for row in rows:
                row.due_at = row.taken_at + timedelta(seconds=_wait(row))
            for until, group in groupby(sorted(rows, key=_due_at), key=_due_at):
                self._rows().filter(id__in=[row.id for row in group]).update(due_at=until)
        return rows, waited

    def _mark(self) -> None:
        # due_at is left alone: a worker may have begun the job and moved it on. So is the reason of an end.
        said = Case(When(finished_at=None, then=Value("")), default=F("error"), output_field=TextField())
        ended: dict[str, Any] = {} if self._reconcile else {"finished_at": Coalesce("finished_at", Now())}
        for queue in sorted(set(self._unmarked.values())):
            ids = [id for id, its in self._unmarked.items() if its == queue]
            self._rows().filter(id__in=ids).update(
                published_at=Now(), publications=F("publications") + 1, failures=0, error=said, queue=queue, **ended
            )
        self._unmarked.clear()

    def _wanted(self, rows: list[OutboxMessage]) -> list[OutboxMessage]:
        """Without those that quarantine holds; what has expired, was discarded from there, or is not to come again, is ended."""
        places: dict[str, list[str]] = {}
        for row in rows:
            if row.publications:
                task = self._app.tasks.get(row.task)
                alias = alias_of(task) if isinstance(task, PatternTask) else self.using
                places.setdefault(alias, []).append(row.task_id)
        parked: dict[str, str] = {}
        for alias, known in places.items():
            parked |= self._parked(alias, known)
        before = [row.id for row in rows if row.published_at and not self._reconcile]
        expired = [row.id for row in rows if _expired(row)]
        discarded = [row.id for row in rows if parked.get(row.task_id) == Parked.State.DISCARDED]
        over = {*expired, *discarded, *before}
        for why, ids in (("expired", expired), ("discarded from quarantine", discarded), ("", before)):
            self._rows().filter(id__in=ids, finished_at=None).update(finished_at=Now(), error=why)
        return [row for row in rows if row.task_id not in parked and row.id not in over]

    def _parked(self, alias: str, known: list[str]) -> dict[str, str]:
        """Of these messages, those that quarantine holds there or has discarded. All, if it is another database and silent."""
        try:
            rows = Parked.objects.using(alias).filter(task_id__in=known).order_by("id")
            latest = dict(rows.values_list("task_id", "state"))
            return {task_id: state for task_id, state in latest.items() if state != Parked.State.REQUEUED}
        except (Error, ConnectionDoesNotExist) as error:
            if alias == self.using:
                raise
            if isinstance(error, Error):
                connections[alias].close()
            logger.warning(
                "Outbox %s: %r does not say what quarantine holds (%s). Left waiting: %s.",
                self.using, alias, _said(error), counted(len(known), "message"),
            )  # fmt: skip
            return dict.fromkeys(known, Parked.State.PARKED)

    def _failed(self, row: OutboxMessage, error: Exception, in_a_row: int) -> str:
        """Let this message wait for its own next attempt; returns what seems to be wrong with the broker, or ""."""
        gone = self._unreachable(error)
        self.close()
        failures = row.failures + 1
        # Even when the broker is gone: a message that makes it hang up must not stay in front of the others.
        later = Now() + timedelta(seconds=_back_off(failures))
        self._leased([row]).update(failures=failures, error=_said(error)[:2000], due_at=later)
        if gone:
            return f"the broker does not answer ({_said(error)})"
        logger.warning(
            "Outbox %s: %s was not published (%s). It is tried again later.",
            self.using,
            row,
            _said(error),
            extra=job_fields(task_id=row.task_id),
        )
        return f"{in_a_row} messages in a row were refused ({_said(error)})" if in_a_row >= REFUSED_IN_A_ROW else ""

    def _prune_now_and_then(self) -> None:
        """Delete what was finished longer ago than the retention, by this machine's clock."""
        if time.monotonic() < self._prune_at:
            return
        removed = prune(now() - timedelta(seconds=settings.RETENTION_SECONDS), self.using, most=PRUNE_AT_ONCE)
        if removed:
            logger.info("Outbox %s: %d finished messages removed.", self.using, removed)
        if removed < PRUNE_AT_ONCE:
            self._prune_at = time.monotonic() + PRUNE_EVERY_SECONDS

    # -- the broker ---------------------------------------------------------------------------------------------------------

    def _publish(self, row: OutboxMessage) -> None:
        """Hand one message over. Redis has it when LPUSH was answered; RabbitMQ when it confirmed that a queue has it."""
        task = self._app.tasks.get(row.task)
        options = dict(row.options)
        if "expires" in options:
            options["expires"] = _expiry(row)
        no_result = options.pop("ignore_result", bool(getattr(task, "ignore_result", False)))
        options["headers"] = {**options.get("headers", {}), "ignore_result": no_result}
        if self._reconcile:  # otherwise it has ended with this, and nobody waits for a worker's word
            options["headers"][HEADER] = self.using
        send: Any = partial(self._app.send_task, row.task) if task is None else task.apply_async
        args, kwargs = row.call(self._app)
        send(
            args=args,
            kwargs=kwargs,
            task_id=row.task_id,
            producer=self._producer(),
            # Nobody here waits for the result: Celery need not subscribe to it. The worker reads the header above.
            ignore_result=True,
            retry=False,
            mandatory=True,
            timeout=BROKER_SECONDS,
            confirm_timeout=BROKER_SECONDS,
            **options,
        )

    def _queue(self, row: OutboxMessage) -> str:
        name, priority = self.destination(row)
        return f"{name} at priority {priority or 0}"[:255]

    def destination(self, row: OutboxMessage) -> tuple[str, int | None]:
        """The queue that Celery routes this message to ("": an exchange of the caller's own decides), and its priority."""
        task = self._app.tasks.get(row.task)
        options = {name: row.options[name] for name in ("queue", "exchange", "routing_key") if name in row.options}
        priority = row.options.get("priority", getattr(task, "priority", None) if task else None)
        if priority is None:
            priority = self._app.conf.task_default_priority
        if "queue" not in options and ("exchange" in options or "routing_key" in options):
            return "", priority
        if "queue" not in options and getattr(task, "queue", None):
            options["queue"] = task.queue  # type: ignore[union-attr]
        router: Any = self._app.amqp.router
        queue = router.route(options, row.task, *row.call(self._app), task_type=task).get("queue", "")
        return str(getattr(queue, "name", queue)), priority

    def broker(self) -> Any:
        """The connection to the broker, opened if need be."""
        self._producer()
        return self._connection

    def _producer(self) -> Any:
        if self._connection is None:
            self._connection = self._connected(
                {
                    "confirm_publish": True,  # RabbitMQ; other transports ignore it
                    "socket_timeout": BROKER_SECONDS,  # Redis; kombu would wait for ever
                    "socket_connect_timeout": BROKER_SECONDS,
                    # Enough to reach a fail-over host; the relay has its own back-off.
                    "max_retries": 3,
                    "interval_start": 0.1,
                    "interval_step": 0,
                }
            )
        return self._app.amqp.Producer(self._connection, auto_declare=False)

    def _connected(self, options: dict[str, Any]) -> Any:
        """A connection of kombu's with these transport options; a subclass may publish elsewhere."""
        return self._app.connection_for_write(transport_options=options)

    def _unreachable(self, error: Exception) -> bool:
        """Whether the broker could not be spoken to; otherwise it, or Celery, did not want this message."""
        if not isinstance(error, BrokerError) or self._connection is None:
            return False
        # kombu counts KeyError as a lost connection to Redis.
        lost = tuple(kind for kind in self._connection.connection_errors if not issubclass(kind, LookupError))
        return error.__cause__ is None or isinstance(error.__cause__, lost)


def _due_at(row: OutboxMessage) -> datetime:
    return row.due_at


def _wait(row: Any) -> float:
    """Seconds until the row is due again, if nothing else moves it."""
    if row.started_by:
        return first_look()
    age = (row.taken_at - row.published_at).total_seconds() if row.published_at else 0.0
    return next_look(age, row.publications, settings.OUTBOX_UNSTARTED_SECONDS)


def _expiry(row: OutboxMessage) -> datetime:
    expires = row.options["expires"]
    if isinstance(expires, str):
        return datetime.fromisoformat(expires)
    return clock.aware(row.created_at) + timedelta(seconds=expires)


def _expired(row: Any) -> bool:
    return "expires" in row.options and _expiry(row) <= clock.aware(row.taken_at)


def _back_off(times: int) -> float:
    """Seconds: half a second, doubling, bounded; with jitter, so that many do not come back together."""
    return min(2.0 ** min(times - 2, 16), settings.DEFER_MAX_SECONDS) * (1 + random.random() / 4)


def _said(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, BrokerError) and error.__cause__ else error
    return f"{type(cause).__name__}: {' '.join(str(cause).split()).rstrip('.')}"
