"""What a relay makes of rows that are due again: the evidence is collected here, ``outbox_evidence`` decides.

What is **not** guaranteed: an answer. A broker or workers that do not answer are no evidence; the row is looked at again later.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from django.db.models import QuerySet

from tasks_demo.core.conf import settings
from tasks_demo.core.wording import counted
from tasks_demo.outbox import broker as outbox_broker
from tasks_demo.outbox.evidence import OPEN, Evidence, Life, lives, lost, must_ask_workers, next_look
from tasks_demo.outbox.progress import life_of
from tasks_demo.records.models import OutboxMessage

logger = logging.getLogger(__name__)
#: So many of those that ended last are asked when they were published: workers of several queues and speeds mix a little.
LAST_ENDED = 100


class Relaying(Protocol):
    """What is needed of a relay."""

    using: str
    _app: Any

    def _rows(self) -> QuerySet[OutboxMessage]: ...
    def _leased(self, rows: list[Any]) -> QuerySet[OutboxMessage]: ...
    def _queue(self, row: OutboxMessage) -> str: ...
    def destination(self, row: OutboxMessage) -> tuple[str, int | None]: ...
    def broker(self) -> Any: ...
    def close(self) -> None: ...


class Suspects:
    """Judges the rows of one relay."""

    def __init__(self, relay: Relaying) -> None:
        self._relay = relay
        self._silence_counts_from = 0.0

    def silence_is_no_sign(self) -> None:
        """The database did not answer just now: for the length of a lease nobody is dead for having told it nothing."""
        self._silence_counts_from = time.monotonic() + settings.OUTBOX_LEASE_SECONDS

    def lost(self, rows: list[Any]) -> list[Any]:
        """Of these, those to publish again, leased anew; for the rest their leases are the time until the next look."""
        began = time.monotonic()
        dead = [row for row in rows if row.started_by and not self._lives(row)]
        lost = self._lost([*dead, *(row for row in rows if not row.started_by)])
        if not lost:
            return []
        # Whatever copy comes next may run. Those that began meanwhile have moved their due_at, and are out.
        still = set(self._relay._leased(lost).values_list("id", flat=True))
        lost = [row for row in lost if row.id in still]
        for row in lost:
            wait = next_look(0.0, row.publications + 1, settings.OUTBOX_UNSTARTED_SECONDS)
            later = row.taken_at + timedelta(seconds=wait + time.monotonic() - began)
            self._relay._leased([row]).update(started_by="", generation=OPEN, due_at=later)
            row.due_at = later
        return lost

    def _lives(self, row: Any) -> bool:
        life, silent = life_of(row.started_by), (row.taken_at - row.seen_at).total_seconds()
        if life is not Life.GONE and time.monotonic() < self._silence_counts_from:
            return True
        lease, unfinished = settings.OUTBOX_LEASE_SECONDS, settings.OUTBOX_UNFINISHED_SECONDS
        if life is Life.GONE:
            # First a broker that knows of the death delivers its own copy; and a job that kills its workers comes ever later.
            wait = min(next_look(0.0, row.publications, settings.OUTBOX_UNSTARTED_SECONDS), unfinished)
            return bool(silent < wait)
        return lives(life, float(silent), lease=lease, unfinished=unfinished)

    def _lost(self, rows: list[Any]) -> list[Any]:
        queues: dict[str, list[Any]] = defaultdict(list)
        for row in rows:
            queues[self._key(row)].append(row)
        found: list[Any] = []
        for key, group in queues.items():
            try:
                found += self._lost_of(key, group)
            except Exception as error:  # noqa: BLE001  (transports raise anything; no answer is no evidence)
                self._relay.close()
                logger.warning(
                    "Outbox %s: the broker does not say what it holds for %s (%s: %s). Left waiting: %s.",
                    self._relay.using, key, type(error).__name__, " ".join(str(error).split()), counted(len(group), "message"),
                )  # fmt: skip
        return found

    def _key(self, row: Any) -> str:
        try:
            return row.queue or self._relay._queue(row)
        except Exception:  # noqa: BLE001  (a router of the project's own raises anything; it is asked again, and heard, below)
            return ""

    def _lost_of(self, key: str, rows: list[Any]) -> list[Any]:
        front = self._front(key, rows)
        name, _ = self._relay.destination(rows[0])
        broker: Any = self._relay.broker() if name else None
        queue = outbox_broker.asked(broker, name) if broker else None
        idle = queue is not None and queue.waiting == 0
        evidence: dict[str, Evidence] = {}
        for row in rows:
            since = row.published_at or row.seen_at  # begun before a relay that died could say that it was published
            age = (row.taken_at - since).total_seconds()
            begun, overtaken = bool(row.started_by), front is not None and since < front
            evidence[row.task_id] = Evidence(age, row.publications, overtaken, idle=idle, begun=begun)
        short = queue is not None and not queue.long
        sought = [
            task_id for task_id, each in evidence.items()
            if outbox_broker.can_be_sought(task_id) and (short or each.overtaken or each.begun or _old(each))
        ]  # fmt: skip
        if broker and sought:
            for task_id, where in outbox_broker.held(broker, name, queue, sought).items():
                evidence[task_id] = replace(evidence[task_id], broker=where)
        unsure = [task_id for task_id, each in evidence.items() if broker and must_ask_workers(each)]
        if unsure:
            held = outbox_broker.held_by_workers(self._relay._app, broker, queue, unsure)
            if held is not None:
                evidence |= {task_id: replace(evidence[task_id], workers=task_id in held) for task_id in unsure}
        return [row for row in rows if lost(evidence[row.task_id], fallback=settings.OUTBOX_LOST_SECONDS)]

    def _front(self, key: str, rows: Iterable[Any]) -> datetime | None:
        """When the latest of those was published that ended long enough ago: what was published before should have begun."""
        rows = list(rows)
        settled = rows[0].taken_at - timedelta(seconds=settings.OUTBOX_UNSTARTED_SECONDS)
        since = min(row.published_at or row.seen_at for row in rows)
        ended = self._relay._rows().filter(queue=key, finished_at__gt=since, finished_at__lte=settled)
        moments = ended.order_by("-finished_at").values_list("published_at", flat=True)[:LAST_ENDED]
        return max((moment for moment in moments if moment is not None), default=None)


def _old(evidence: Evidence) -> bool:
    """Whether it would count as lost for its age alone: then a broker that can tell is asked, however long its queue."""
    return lost(evidence, fallback=settings.OUTBOX_LOST_SECONDS)
