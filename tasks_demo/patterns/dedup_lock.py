"""dedup_lock: effectively-once, with a Redis-backed lease on the operation.

    received ─▶ claim ─┬─ claimed ──▶ started ─▶ effect ─▶ complete ─▶ returned ─▶ acked
                       ├─ held ─────▶ a delayed copy is published, then acked     (deferred)
                       ├─ completed ▶ the stored result is returned, then acked   (suppressed)
                       └─ mismatch ─▶ OperationMismatch: other arguments or another task, same key
                          a claim that took longer than the lease lasts begins no body      (deferred)
                          a heartbeat renews the lease while the body runs

Redis errors fail closed: the body does not run, or its completion is not trusted, and the message is requeued.

Does **not** guarantee:

- That the body runs only once. A worker killed between the effect and the completed marker leaves an operation that looks
  unfinished, and the body runs again.
- A single effect at a receiver that honours neither the operation key (an Idempotency-Key) nor the fence: the effect can happen
  twice, and the lab measures how often.
- That every message is redelivered, on Redis as the broker: see the fetch window in ``late``.
- That a job which kills its worker is retried indefinitely: after ``max_attempts`` it is parked (see ``attempts``) and its lease
  is released.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, NoReturn

from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import ContradictoryDeclaration, LeaseLost, NoLease, OperationMismatch
from tasks_demo.core.lifecycle import Point, Subject, about, described, job_fields, reached
from tasks_demo.leases.heartbeat import Lease, NoLeaseNeeded, hold
from tasks_demo.leases.process import parse_process, this_process
from tasks_demo.leases.protocol import Claimed, Completed, Held, LeaseStore, Mismatch
from tasks_demo.leases.stores import configured_store
from tasks_demo.patterns import results
from tasks_demo.patterns.attempts import count_attempt
from tasks_demo.patterns.execution import Execution, WorkerKilled, execution
from tasks_demo.patterns.late import LateTask
from tasks_demo.patterns.requeue import defer
from tasks_demo.patterns.suppression import suppress

logger = logging.getLogger(__name__)
__all__ = ["DedupLock", "Lease", "lease"]

_lease: ContextVar[Lease | None] = ContextVar("tasks_demo_lease", default=None)


def lease() -> Lease:
    """Return the lease of the running body. Call ``lease().check()`` between steps; send ``lease().fence`` with each write.

    In a body that is called as a function, ``charge(17, 5)``, nothing is held: ``check()`` never raises, and ``fence`` is 0, less
    than any holder's. Raises NoLease outside the body of a DedupLock task, and in other threads than the body's.
    """
    held = _lease.get()
    if held is None:
        raise NoLease
    return held


class DedupLock(LateTask):
    """Promise: 1 effect per operation key, if its receiver honours the key or the fence."""

    abstract = True
    pattern = "dedup_lock"

    def run_delivery(self, subject: Subject, args: Any, kwargs: Any) -> Any:
        """Claim the operation, run the body under the lease, store the result with the completed marker."""
        arguments = self.digest(args, kwargs)
        with execution(self) as body:
            leases, cap_seconds = configured_store(), settings.LEASE_CAP_SECONDS
            me = this_process(subject.task_id)
            reply = leases.claim(subject.operation, arguments, str(me))
            if isinstance(reply, Held) and (holder := parse_process(reply.who)) and holder.gone:
                # Its process has ended: take over at once. If the lease has a new holder by now, this is a normal claim.
                reply = leases.claim(subject.operation, arguments, str(me), reply.fence)
            match reply:
                case Completed(result=stored, who=who):
                    first = parse_process(who)
                    return suppress(self, results.from_text(stored), first.task_id if first else "")
                case Held(seconds_left=seconds):
                    # Not dropped: the holder may die. Not deferred for the whole lease: a retry is published just before its
                    # lease is released, and would wait for too long.
                    defer(self, "held by another worker", at_most=seconds, level=logging.INFO)
                case Mismatch():
                    raise OperationMismatch(
                        f"Operation {subject.operation!r} was already used by another task or with other arguments. "
                        "Nothing was run. Use a new operation key for new work."
                    )
                case Claimed():
                    pass
            result = self._run_under(subject, body, leases, reply, cap_seconds, args, kwargs)
            reached(Point.RETURNED)
            return result

    def replace(self, sig: Any) -> NoReturn:
        """Refused: it ends the body without a result, so no completed marker could be stored."""
        raise ContradictoryDeclaration(
            f"{self.name}: self.replace() contradicts the pattern dedup_lock: no completed marker would be stored, so a copy "
            "would run the body and publish the replacement again. Publish the other job after this one, as a link or a chain."
        )

    def run_directly(self, args: Any, kwargs: Any) -> Any:
        """Run the body as a function: nothing is claimed. Inside another body it runs under that body's lease."""
        if _lease.get() is not None:
            return self.run_body(*args, **kwargs)
        with _as_current(NoLeaseNeeded()):
            return self.run_body(*args, **kwargs)

    def _run_under(
        self,
        subject: Subject,
        body: Execution,
        leases: LeaseStore,
        claimed: Claimed,
        cap_seconds: float,
        args: Any,
        kwargs: Any,
    ) -> Any:
        with ExitStack() as until_completed:
            try:
                held = until_completed.enter_context(hold(leases, claimed, cap_seconds))
                until_completed.enter_context(_as_current(held))
                until_completed.enter_context(about(replace(subject, fence=claimed.fence)))
                # Only the holder's attempt is counted, and only until its marker is stored.
                until_completed.enter_context(count_attempt(self, body))
                reached(Point.CLAIMED, fence=claimed.fence, attempt=claimed.attempt)
                held.check()  # claim and count may have taken longer than the lease lasts: a stopped process, a slow server
                reached(Point.STARTED)
                result = body.run(args, kwargs)
            except LeaseLost as error:
                reached(Point.LEASE_LOST, fence=claimed.fence, why=str(error))
                self._release(leases, claimed)
                if held.capped:
                    raise  # it ran for longer than the cap, and so would another attempt
                defer(self, error)  # the new holder completes the operation, or else this copy does
            except WorkerKilled:
                raise
            except BaseException:
                # The body did not start, failed or retries, the message was parked, or this process is exiting: the next delivery
                # must not wait for the lease to expire.
                self._release(leases, claimed)
                raise
            self._complete(leases, claimed, result)
        return result

    def _complete(self, leases: LeaseStore, claimed: Claimed, result: Any) -> None:
        try:
            stored = leases.complete(claimed, results.as_text(self, result))
        except Exception as error:  # noqa: BLE001  (the body has run: a failure here must not fail the job)
            # It is unknown whether the marker was stored. The copy is suppressed if it was, and runs the operation again if not.
            defer(self, error)
        if not stored:
            reached(Point.LEASE_LOST, fence=claimed.fence)
            defer(self, "another worker took over the operation; this copy waits for its result")
        reached(Point.COMPLETED, fence=claimed.fence)

    def _release(self, leases: LeaseStore, claimed: Claimed) -> None:
        try:
            leases.release(claimed)
        except Exception as error:  # noqa: BLE001  (the outcome of the job is decided)
            logger.warning(
                "The lease on %r could not be released: copies wait until it expires. %s",
                claimed.operation, described(error), extra=job_fields(operation=claimed.operation, fence=claimed.fence),
            )  # fmt: skip


@contextmanager
def _as_current(held: Lease) -> Iterator[None]:
    token = _lease.set(held)
    try:
        yield
    finally:
        _lease.reset(token)
