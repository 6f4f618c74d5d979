"""The relay's statements on the outbox table: lease due rows, mark published ones, postpone failed ones, end expired ones.

A lease is a ``due_at`` in the future: no other relay takes the row before then, and the rows of a dead relay become due again
then. So several relays may share an outbox, on SQLite too. Every method commits its own transaction and raises the database's
errors.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from celery import current_app
from django.db import Error, connections, router, transaction
from django.db.models import Case, CharField, F, Q, QuerySet, TextField, Value, When
from django.db.models.functions import Coalesce
from django.utils.connection import ConnectionDoesNotExist

from tasks_demo.core import clock
from tasks_demo.core.clock import Now
from tasks_demo.core.conf import settings
from tasks_demo.core.lifecycle import described
from tasks_demo.core.wording import counted
from tasks_demo.outbox.evidence import OPEN, next_look
from tasks_demo.outbox.reporting import first_look
from tasks_demo.patterns import operation_records
from tasks_demo.patterns.attempts import alias_of
from tasks_demo.patterns.base import PatternTask
from tasks_demo.records.models import OutboxMessage, Parked

logger = logging.getLogger(__name__)


def overdue(using: str | None = None) -> float:
    """Return for how many seconds the first message has been due, or 0 if none is. Monitor it: it grows while no relay works."""
    rows = OutboxMessage.objects.using(using or router.db_for_write(OutboxMessage)).filter(finished_at=None)
    first: Any = rows.filter(due_at__lte=Now()).annotate(asked_at=Now()).order_by("due_at", "id").first()
    return (first.asked_at - first.due_at).total_seconds() if first else 0.0


def prune(before: datetime, using: str | None = None, *, most: int | None = None) -> int:
    """Delete messages that finished before this time, 1000 per commit, at most ``most``. Returns the number deleted."""
    return operation_records.prune(OutboxMessage, "finished_at", before, using, most)


class Table:
    """The outbox on the alias ``using``, restricted to rows that match ``only``."""

    def __init__(self, using: str | None, only: Q | None = None) -> None:
        self.using = using or router.db_for_write(OutboxMessage)
        self._only = only or Q()

    def rows(self) -> QuerySet[OutboxMessage]:
        """Return all messages that this relay publishes, including finished ones."""
        return OutboxMessage.objects.using(self.using).filter(self._only)

    def take(self, most: int) -> tuple[list[OutboxMessage], float]:
        """Lease up to ``most`` due rows. Returns them, and for how many seconds the first has been due."""
        due = self.rows().filter(finished_at=None, due_at__lte=Now()).order_by("due_at", "id")
        sqlite = connections[self.using].vendor == "sqlite"
        # Read without a lock first: an idle relay takes none, and on SQLite workers do not wait while rows are loaded.
        seen: list[Any] = list(due[: most if sqlite else 1])
        if not seen:
            return [], 0.0
        # durable: inside another transaction, the relay would publish rows that may be rolled back.
        with transaction.atomic(using=self.using, durable=True):
            if sqlite:
                # Write first: SQLite may refuse to upgrade a transaction that began as a reader.
                self.rows().filter(id=-1).update(failures=0)
                # Another relay may have taken some meanwhile. The lease of the others begins here, after the wait for the lock.
                same = self.rows().filter(id__in=[row.id for row in seen], finished_at=None)
                now = {(id, due_at): at for id, due_at, at in same.annotate(at=Now()).values_list("id", "due_at", "at")}
                rows = [row for row in seen if (row.id, row.due_at) in now]
                for row in rows:
                    row.taken_at = now[row.id, row.due_at]
            else:
                rows = list(due.select_for_update(skip_locked=True).annotate(taken_at=Now())[:most])
            waited = (rows[0].taken_at - rows[0].due_at).total_seconds() if rows else 0.0
            for row in rows:
                row.due_at = row.taken_at + timedelta(seconds=_lease_seconds(row))
            for until, group in groupby(sorted(rows, key=_due_at), key=_due_at):
                self.rows().filter(id__in=[row.id for row in group]).update(due_at=until)
        return rows, waited

    def leased(self, rows: list[OutboxMessage]) -> QuerySet[OutboxMessage]:
        """Return the rows whose lease is unchanged: no worker has begun them and no other relay has taken them since."""
        return self.rows().filter(id__in=[row.id for row in rows], due_at__in={row.due_at for row in rows})

    def release(self, rows: list[OutboxMessage]) -> None:
        """End the leases, so that any relay can take the rows at once."""
        self.leased(rows).update(due_at=Now())

    def reopen(self, row: OutboxMessage, due_at: datetime) -> None:
        """Prepare the row to be published again: whichever copy is delivered next may run. The lease now ends at ``due_at``."""
        self.leased([row]).update(started_by="", generation=OPEN, due_at=due_at)
        row.due_at = due_at

    def postpone(self, row: OutboxMessage, seconds: float, error: str) -> None:
        """Record that publishing the row failed, and make it due again after ``seconds``."""
        later = Now() + timedelta(seconds=seconds)
        self.leased([row]).update(failures=row.failures + 1, error=error[:2000], due_at=later)

    def mark(self, published: dict[int, str], *, finished: bool) -> None:
        """Mark rows as published, in one statement. ``published``: row ID → queue.

        ``finished``: end them too, because no worker will report on them.
        """
        # Keep due_at: a worker may have begun the job and moved it. Keep the error of a row that has ended: it says why.
        error = Case(When(finished_at=None, then=Value("")), default=F("error"), output_field=TextField())
        ended: dict[str, Any] = {"finished_at": Coalesce("finished_at", Now())} if finished else {}
        if not published:
            return
        ids_of: dict[str, list[int]] = defaultdict(list)
        for id, queue in published.items():
            ids_of[queue].append(id)
        first, *others = sorted(ids_of, key=lambda queue: len(ids_of[queue]), reverse=True)
        queues: Any = first
        if others:
            cases = [When(id__in=ids_of[queue], then=Value(queue)) for queue in others]
            queues = Case(*cases, default=Value(first), output_field=CharField())
        self.rows().filter(id__in=list(published)).update(
            published_at=Now(), publications=F("publications") + 1, failures=0, error=error, queue=queues, **ended
        )

    def wanted(self, rows: list[OutboxMessage], *, again: bool) -> list[OutboxMessage]:
        """Return the rows that may be published; rows in quarantine may not.

        Ends rows that have expired, that were discarded from quarantine, and, without ``again``, that were published before.
        """
        places: dict[str, list[str]] = {}
        for row in rows:
            if row.publications:
                task = current_app.tasks.get(row.task)
                alias = alias_of(task) if isinstance(task, PatternTask) else self.using
                places.setdefault(alias, []).append(row.task_id)
        parked: dict[str, str] = {}
        for alias, task_ids in places.items():
            parked |= self._parked(alias, task_ids)
        before = [row.id for row in rows if row.published_at and not again]
        expired = [row.id for row in rows if _expired(row)]
        discarded = [row.id for row in rows if parked.get(row.task_id) == Parked.State.DISCARDED]
        over = {*expired, *discarded, *before}
        for why, ids in (("expired", expired), ("discarded from quarantine", discarded), ("", before)):
            self.rows().filter(id__in=ids, finished_at=None).update(finished_at=Now(), error=why)
        return [row for row in rows if row.task_id not in parked and row.id not in over]

    def _parked(self, alias: str, task_ids: list[str]) -> dict[str, str]:
        """Return the task IDs that are parked or discarded on that alias, with their state.

        If the alias is not the outbox's own and does not answer, all count as parked.
        """
        try:
            rows = Parked.objects.using(alias).filter(task_id__in=task_ids).order_by("id")
            latest = dict(rows.values_list("task_id", "state"))
            return {task_id: state for task_id, state in latest.items() if state != Parked.State.REQUEUED}
        except (Error, ConnectionDoesNotExist) as error:
            if alias == self.using:
                raise
            if isinstance(error, Error):
                connections[alias].close()
            logger.warning(
                "Outbox %s: the quarantine on %r could not be read (%s). Not published until it can be: %s.",
                self.using, alias, described(error), counted(len(task_ids), "message"),
            )  # fmt: skip
            return dict.fromkeys(task_ids, Parked.State.PARKED)


def expiry(row: OutboxMessage) -> datetime:
    """Return when the message expires. The row must have the option ``expires``."""
    expires = row.options["expires"]
    if isinstance(expires, str):
        return datetime.fromisoformat(expires)
    return clock.aware(row.created_at) + timedelta(seconds=expires)


def _expired(row: Any) -> bool:
    return "expires" in row.options and expiry(row) <= clock.aware(row.taken_at)


def _due_at(row: OutboxMessage) -> datetime:
    return row.due_at


def _lease_seconds(row: Any) -> float:
    if row.started_by:
        return first_look()
    age = (row.taken_at - row.published_at).total_seconds() if row.published_at else 0.0
    return next_look(age, row.publications, settings.OUTBOX_UNSTARTED_SECONDS)
