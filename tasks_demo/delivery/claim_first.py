"""claim_first: at-most-once, strictly.

What is **not** guaranteed: that the job runs at all. Whoever is killed between the claim and the end of the body leaves a
claim that nobody takes over. Doubt falls to the same side: if the connection is lost while the claim is being committed, the
body does not run, and the copy that is put back runs if the claim is not there and is suppressed if it is. Nor is it
guaranteed once claims can vanish: a database restored from a backup, a failover that loses commits, ``prune`` with too short
a horizon. And SUCCESS of a suppressed copy says only that it ended: its result is None, whatever became of the first.

    received ─▶ acked ─▶ claim (committed) ─┬─ ours ───────▶ started ─▶ effect ─▶ returned
                                            ├─ taken ──────▶ nothing is run, no chain goes on     (suppressed)
                                            ├─ mismatch ───▶ OperationMismatch: other arguments or another task, same key
                                            └─ no answer ──▶ a delayed copy is published          (deferred)
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any, NoReturn

from django.db import Error, connections, router
from django.utils import timezone

from tasks_demo.delivery import rows
from tasks_demo.delivery.acks_early import AcksEarly
from tasks_demo.delivery.base import PatternTask
from tasks_demo.delivery.putting_back import put_back
from tasks_demo.delivery.quarantine import fitting
from tasks_demo.durable.models import Claim
from tasks_demo.exceptions import ContradictoryDeclaration, LedgerUnavailable, RecordsUnavailable
from tasks_demo.lifecycle import Point, about, reached
from tasks_demo.locks.protocol import digest

logger = logging.getLogger(__name__)


class ClaimFirst(PatternTask):
    """Promise: at most 1 execution and 1 effect per operation key, always."""

    abstract = True
    pattern = "claim_first"
    acks_late = False
    reject_on_worker_lost = False
    retry_on_worker_lost = False
    autoretry_for = ()
    requires = AcksEarly.requires

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Commit the claim, then run the body."""
        if self.request.called_directly:
            return self.run(*args, **kwargs)
        with about(self.subject(args, kwargs, self.request.id or "", self.request.hostname or "")) as subject:
            alias = self.using or router.db_for_write(Claim)
            claim = Claim(
                operation=fitting(subject.operation),
                task_id=fitting(subject.task_id),
                digest=digest(self.name, args, kwargs),
                worker=fitting(subject.worker),
                claimed_at=timezone.now(),
            )
            rows.outside_transactions(self, alias)
            try:
                taken = rows.earlier(claim, alias)
            except RecordsUnavailable as error:
                connections[alias].close()
                put_back(self, str(error))
            if taken is not None:
                self.nothing_follows()
                reached(Point.SUPPRESSED)
                return None
            try:
                reached(Point.CLAIMED)
                reached(Point.STARTED)
            except LedgerUnavailable as error:
                _give_back(claim, alias)  # the body has not run: a new copy is not a second execution
                put_back(self, str(error))
            result = self.run(*args, **kwargs)
            reached(Point.RETURNED)
            return result

    def retry(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: a retry from inside the body is a second execution, and its copy would find the claim."""
        raise ContradictoryDeclaration(
            f"{self.name}: self.retry() contradicts the pattern claim_first: a retry is a second execution. "
            "Let the error be seen, or declare the task with AcksLate, DedupLock or Inbox."
        )


def _give_back(claim: Claim, alias: str) -> None:
    # Exactly the row of this delivery, even if the statement arrives late: not one that was made since.
    ours = Claim.objects.using(alias).filter(
        pk=claim.pk, task_id=claim.task_id, worker=claim.worker, claimed_at=claim.claimed_at
    )
    try:
        ours.delete()
    except Error as error:
        connections[alias].close()
        logger.error("The claim on %r could not be given back: the job may not run at all. %s", claim.operation, error)


def prune(before: datetime, using: str | None = None) -> int:
    """Delete the claims made before this moment, 1000 a commit; returns how many it were.

    A copy that arrives later than that runs a second time. ``before`` must lie further back than any copy can be late:
    TASKS_DEMO_RETENTION_SECONDS, which must exceed every redelivery horizon (visibility timeout, countdown, outage).
    """
    return rows.prune(Claim, "claimed_at", before, using or router.db_for_write(Claim))
