"""Finds the rows, among those that are due again, whose last copy is lost. It collects the evidence; evidence.py decides.

What is **not** guaranteed: an answer. A broker or worker that does not answer is not evidence; the row is checked again later.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from tasks_demo.core.conf import settings
from tasks_demo.core.lifecycle import described
from tasks_demo.core.wording import counted
from tasks_demo.outbox import copy_search
from tasks_demo.outbox.claims import life_of
from tasks_demo.outbox.evidence import Evidence, Life, Location, is_alive, lost, must_ask_workers, next_look
from tasks_demo.outbox.publisher import Publisher
from tasks_demo.outbox.table import Table

logger = logging.getLogger(__name__)
#: Number of recently ended jobs that are compared, because workers of different speeds finish slightly out of order.
LAST_ENDED = 100


class Reconciler:
    """Finds, among rows that are due again, those whose last copy is lost."""

    def __init__(self, table: Table, publisher: Publisher) -> None:
        self._table = table
        self._publisher = publisher
        self._silence_counts_from = 0.0

    def disregard_silence(self) -> None:
        """Count no holder as dead because of its silence, for the length of a lease: the database did not answer just now."""
        self._silence_counts_from = time.monotonic() + settings.OUTBOX_LEASE_SECONDS

    def lost(self, rows: list[Any]) -> list[Any]:
        """Return the rows to publish again, with a new lease. The other rows are due again when their lease ends."""
        began = time.monotonic()
        dead = [row for row in rows if row.started_by and not self._lives(row)]
        lost = self._lost([*dead, *(row for row in rows if not row.started_by)])
        if not lost:
            return []
        # A row that a worker has begun meanwhile has a different due_at and is skipped.
        still = set(self._table.leased(lost).values_list("id", flat=True))
        lost = [row for row in lost if row.id in still]
        for row in lost:
            wait = next_look(0.0, row.publications + 1, settings.OUTBOX_UNSTARTED_SECONDS)
            self._table.reopen(row, row.taken_at + timedelta(seconds=wait + time.monotonic() - began))
        return lost

    def _lives(self, row: Any) -> bool:
        life, silent = life_of(row.started_by), (row.taken_at - row.seen_at).total_seconds()
        if life is not Life.GONE and time.monotonic() < self._silence_counts_from:
            return True
        lease, unfinished = settings.OUTBOX_LEASE_SECONDS, settings.OUTBOX_UNFINISHED_SECONDS
        if life is Life.GONE:
            # Wait, so that a broker that noticed the death redelivers first, and a job that kills its workers is retried
            # less and less often.
            wait = min(next_look(0.0, row.publications, settings.OUTBOX_UNSTARTED_SECONDS), unfinished)
            return bool(silent < wait)
        return is_alive(life, float(silent), lease=lease, unfinished=unfinished)

    def _lost(self, rows: list[Any]) -> list[Any]:
        queues: dict[str, list[Any]] = defaultdict(list)
        for row in rows:
            queues[self._place(row)].append(row)
        found: list[Any] = []
        for place, group in queues.items():
            try:
                found += self._lost_of(place, group)
            except Exception as error:  # noqa: BLE001  (transports may raise anything; silence is not evidence)
                self._publisher.close()
                logger.warning(
                    "Outbox %s: the broker did not say what it holds for %s (%s). Left until the next look: %s.",
                    self._table.using, place, described(error), counted(len(group), "message"),
                )  # fmt: skip
        return found

    def _place(self, row: Any) -> str:
        try:
            return row.queue or self._publisher.place(row)
        except Exception:  # noqa: BLE001  (the project's own router may raise anything; it is called again, and the error logged, below)
            return ""

    def _lost_of(self, place: str, rows: list[Any]) -> list[Any]:
        front = self._front(place, rows)
        name = self._publisher.queue(rows[0])
        broker: Any = self._publisher.connection() if name else None
        queue = copy_search.queue_state(broker, name) if broker else None
        idle = queue is not None and queue.waiting == 0
        evidence: dict[str, Evidence] = {}
        for row in rows:
            since = (
                row.published_at or row.seen_at
            )  # seen_at: begun, but the relay died before it marked the publication
            age = (row.taken_at - since).total_seconds()
            begun, overtaken = bool(row.started_by), front is not None and since < front
            evidence[row.task_id] = Evidence(age, row.publications, overtaken, idle=idle, begun=begun)
        short = queue is not None and not queue.long
        sought = [
            task_id for task_id, each in evidence.items()
            if copy_search.is_searchable(task_id) and (short or each.overtaken or each.begun or _old(each))
        ]  # fmt: skip
        if broker and sought:
            for task_id, where in copy_search.search_broker(broker, name, queue, sought).items():
                evidence[task_id] = replace(evidence[task_id], broker=where)
        absent = [task_id for task_id, each in evidence.items() if each.broker is Location.ABSENT]
        unsure = [task_id for task_id, each in evidence.items() if broker and must_ask_workers(each)]
        if unsure:
            known = copy_search.ask_workers(broker, queue, unsure)
            if known is not None:
                evidence |= {task_id: replace(evidence[task_id], workers=task_id in known) for task_id in unsure}
        if absent:
            # Look again: a message that a worker returned to its queue during the first look was in neither place.
            for task_id, where in copy_search.search_broker(
                broker, name, copy_search.queue_state(broker, name), absent
            ).items():
                evidence[task_id] = replace(evidence[task_id], broker=where)
        return [row for row in rows if lost(evidence[row.task_id], fallback=settings.OUTBOX_LOST_SECONDS)]

    def _front(self, place: str, rows: Iterable[Any]) -> datetime | None:
        """Return the latest publication time of the recently ended jobs. Jobs published before it should have begun."""
        rows = list(rows)
        settled = rows[0].taken_at - timedelta(seconds=settings.OUTBOX_UNSTARTED_SECONDS)
        since = min(row.published_at or row.seen_at for row in rows)
        ended = self._table.rows().filter(queue=place, finished_at__gt=since, finished_at__lte=settled)
        moments = ended.order_by("-finished_at").values_list("published_at", flat=True)[:LAST_ENDED]
        return max((moment for moment in moments if moment is not None), default=None)


def _old(evidence: Evidence) -> bool:
    """Return whether the copy counts as lost by age alone. If so, a broker that can tell is asked, however long its queue is."""
    return lost(evidence, fallback=settings.OUTBOX_LOST_SECONDS)
