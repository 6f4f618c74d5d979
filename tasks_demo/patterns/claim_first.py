"""claim_first: at-most-once, strictly.

    received ─▶ acked ─▶ claim (committed) ─┬─ inserted ───▶ started ─▶ effect ─▶ returned
                                            ├─ there ──────▶ nothing is run, continuations dropped  (suppressed)
                                            ├─ mismatch ───▶ OperationMismatch: other arguments or another task, same key
                                            └─ no answer ──▶ a delayed copy is published            (deferred)

Does **not** guarantee:

- That the job runs at all. A worker killed between the claim and the end of the body leaves a claim that nobody takes over. If
  the connection is lost while the claim is being committed, the body does not run; the deferred copy runs if the claim is not
  there, and is suppressed if it is.
- Anything once claims can vanish: a database restored from a backup, a failover that loses commits, ``prune`` with too short a
  horizon.
- That SUCCESS of another task ID that was suppressed (a double click) says how the first one ended: its result is None in every
  case. A copy of the same task ID stores nothing: the outcome is that of the first delivery.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from django.db import connections, router

from tasks_demo.core.exceptions import RecordsUnavailable
from tasks_demo.core.lifecycle import Point, Subject, described, job_fields, reached
from tasks_demo.patterns import operation_records, transactions
from tasks_demo.patterns.early import EarlyTask
from tasks_demo.patterns.execution import execution
from tasks_demo.patterns.requeue import defer
from tasks_demo.patterns.suppression import suppressed
from tasks_demo.records.fields import fit_column
from tasks_demo.records.models import Claim

logger = logging.getLogger(__name__)
#: Header of a deferred copy whose body has not started although its claim exists: when that claim was made.
UNBEGUN = "tasks_demo_unbegun"


class ClaimFirst(EarlyTask):
    """Promise: at most 1 execution and 1 effect per operation key, always."""

    abstract = True
    pattern = "claim_first"

    def run_delivery(self, subject: Subject, args: Any, kwargs: Any) -> Any:
        """Commit the claim, then run the body."""
        alias = self.using or router.db_for_write(Claim)
        claim = operation_records.new_row(Claim, subject, self.digest(args, kwargs), "claimed_at")
        claim.worker = fit_column(subject.worker)
        with execution(self) as body:
            transactions.outside_transactions(self, alias)
            try:
                taken = operation_records.find_or_insert(claim, alias)
            except RecordsUnavailable:
                connections[alias].close()
                raise
            if taken is not None and not self._take_over(taken, claim, alias):
                left = suppressed(self, f"the operation was claimed at {taken.claimed_at:%Y-%m-%d %H:%M:%S %Z}")
                if taken.task_id == claim.task_id:
                    raise left  # the outcome is that of the first delivery of this task, if any
                self.drop_continuations()
                return None
            try:
                reached(Point.CLAIMED)
                reached(Point.STARTED)
                result = body.run(args, kwargs)
            except Exception as error:
                if not body.begun and not _undo(claim, alias):
                    # The copy would find the claim and be suppressed; the header says that its body has not started.
                    defer(self, error, headers={UNBEGUN: claim.claimed_at.isoformat()})
                raise
            reached(Point.RETURNED)
            return result

    def _take_over(self, taken: Claim, claim: Claim, alias: str) -> bool:
        """Take over the claim of an earlier delivery of this task whose body has not started; False: it is another claim.

        Of several copies one succeeds: the row is updated only while it is the one that the header names.
        """
        if (self.request.headers or {}).get(UNBEGUN) != taken.claimed_at.isoformat() or taken.task_id != claim.task_id:
            return False
        theirs = Claim.objects.using(alias).filter(pk=taken.pk, task_id=taken.task_id, claimed_at=taken.claimed_at)
        return bool(theirs.update(worker=claim.worker, claimed_at=claim.claimed_at))


def _undo(claim: Claim, alias: str) -> bool:
    """Delete the claim of a body that has not started; False, and an error in the log, if that fails."""
    # Exactly the row of this delivery, even if the statement arrives late: not a later one.
    ours = Claim.objects.using(alias).filter(
        pk=claim.pk, task_id=claim.task_id, worker=claim.worker, claimed_at=claim.claimed_at
    )
    try:
        ours.delete()
    except Exception as error:  # noqa: BLE001  (the job is deferred in any case)
        logger.error(
            "The claim on %r could not be deleted: its copy takes it over. %s",
            claim.operation,
            described(error),
            extra=job_fields(operation=claim.operation),
        )
        connections[alias].close()
        return False
    return True


def prune(before: datetime, using: str | None = None) -> int:
    """Delete the claims made before this moment, 1000 in each commit; return the number deleted.

    A copy that arrives later runs a second time. ``before`` must be older than any copy can be: by
    TASKS_DEMO_RETENTION_SECONDS, which must exceed every redelivery horizon (visibility timeout, countdown, outage).
    """
    return operation_records.prune(Claim, "claimed_at", before, using)
