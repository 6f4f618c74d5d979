"""claim_first: at-most-once, strictly.

    received ─▶ acked ─▶ claim (committed) ─┬─ inserted ───▶ started ─▶ effect ─▶ returned
                                            ├─ exists ─────▶ nothing is run, continuations dropped  (suppressed)
                                            ├─ mismatch ───▶ OperationMismatch: other arguments or another task, same key
                                            └─ no answer ──▶ a delayed copy is published            (deferred)

Does **not** guarantee:

- That the job runs at all. A worker killed between the claim and the end of the body leaves a claim that nobody takes over. If
  the connection is lost while the claim is being committed, the body does not run; the deferred copy is suppressed if the claim
  was committed, and runs otherwise.
- Anything if claims can be lost: a database restored from a backup, a failover that loses commits, ``prune`` with too recent a
  ``before``.
- That the SUCCESS of another, suppressed task ID (a double click) says how the first job ended: its result is always None. A copy
  with the same task ID stores no result: the outcome is that of the first delivery.
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
from tasks_demo.patterns.requeue import Suppressed, defer
from tasks_demo.patterns.suppression import announce_suppressed
from tasks_demo.records.fields import fit_column
from tasks_demo.records.models import Claim

logger = logging.getLogger(__name__)
#: Header of a deferred copy whose claim exists although the body has not started: when that claim was made.
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
                why = f"the operation was claimed at {taken.claimed_at:%Y-%m-%d %H:%M:%S %Z}"
                announce_suppressed(self, why)
                if taken.task_id == claim.task_id:
                    raise Suppressed(why)  # the outcome is that of the first delivery of this task, if any
                self.drop_continuations()
                return None
            try:
                reached(Point.CLAIMED)
                reached(Point.STARTED)
                result = body.run(args, kwargs)
            except Exception as error:
                if not body.begun and not _undo(claim, alias):
                    # Without the header the copy would find the claim and be suppressed.
                    defer(self, error, headers={UNBEGUN: claim.claimed_at.isoformat()})
                raise
            reached(Point.RETURNED)
            return result

    def _take_over(self, taken: Claim, claim: Claim, alias: str) -> bool:
        """Take over the claim of an earlier delivery of this job whose body has not started. Returns False for any other claim.

        Only one of several copies succeeds: the row is updated only if it is still the one that the header names.
        """
        if (self.request.headers or {}).get(UNBEGUN) != taken.claimed_at.isoformat() or taken.task_id != claim.task_id:
            return False
        theirs = Claim.objects.using(alias).filter(pk=taken.pk, task_id=taken.task_id, claimed_at=taken.claimed_at)
        return bool(theirs.update(worker=claim.worker, claimed_at=claim.claimed_at))


def _undo(claim: Claim, alias: str) -> bool:
    """Delete the claim of a body that has not started. If that fails, log an error and return False."""
    # Matches only this delivery's row, so that a statement that arrives late cannot delete a later claim.
    ours = Claim.objects.using(alias).filter(
        pk=claim.pk, task_id=claim.task_id, worker=claim.worker, claimed_at=claim.claimed_at
    )
    try:
        ours.delete()
    except Exception as error:  # noqa: BLE001  (the job is deferred in any case)
        logger.error(
            "The claim on %r, whose body has not started, could not be deleted; the deferred copy takes it over. %s",
            claim.operation, described(error), extra=job_fields(operation=claim.operation),
        )  # fmt: skip
        connections[alias].close()
        return False
    return True


def prune(before: datetime, using: str | None = None) -> int:
    """Delete the claims made before this time, 1000 per commit; return the number deleted.

    A copy that arrives after that runs a second time. So ``before`` must be at least TASKS_DEMO_RETENTION_SECONDS ago, and that
    setting must exceed every redelivery horizon (visibility timeout, countdown, outage).
    """
    return operation_records.prune(Claim, "claimed_at", before, using)
