"""Claims the row of an outbox message before the body runs, or suppresses the copy.

    claim the row, in one statement ─┬─ claimed ──▶ the body runs; its lease is renewed meanwhile (outbox/running.py)
                                     └─ refused ──▶ SuperfluousCopy: the copy is acknowledged, and nothing runs

What is **not** guaranteed:

- That a copy is refused while the outbox's database does not answer. The promise is at least once, so the copy runs.
- That copies are claimed in pools without worker_init, or for tasks registered after the worker started: there every copy runs.

The claim is made in ``before_start`` of every task of the worker, with or without a pattern.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from celery import Task, signals

from tasks_demo.core.clock import Now
from tasks_demo.core.conf import settings
from tasks_demo.core.lifecycle import Point, described, job_fields, reached
from tasks_demo.leases.process import parse_process, this_process
from tasks_demo.outbox.evidence import Life, RowState, is_alive, refusal
from tasks_demo.outbox.reporting import changed, first_look, generation_of, holder_of, key_of, outbox_of, report
from tasks_demo.outbox.running import running
from tasks_demo.patterns.requeue import Unfinished, has_message, log_delivery
from tasks_demo.patterns.subjects import subject_of
from tasks_demo.records.models import OutboxMessage

logger = logging.getLogger(__name__)
_HOOKED = "_tasks_demo_outbox_hooked"


class SuperfluousCopy(Unfinished):
    """The copy is acknowledged and not run: the job has ended, is running, or continues with another copy."""


@signals.worker_init.connect(weak=False, dispatch_uid="tasks_demo.outbox.hooked")
def _hook_all(sender: Any = None, **_: Any) -> None:
    """Make every task of this worker claim its row before it starts. Celery has no signal that can refuse a task."""
    for task in list(sender.app.tasks.values()):
        hook(type(task))


def hook(kind: type[Task[Any, Any]]) -> None:
    """Make ``before_start`` of this task class claim the row first."""
    if _HOOKED in kind.__dict__:
        return
    before: Callable[..., None] = kind.before_start

    def before_start(self: Any, task_id: str, args: Any, kwargs: Any) -> None:
        why = refused(self)
        if why:
            _suppress(self, why)
        before(self, task_id, args, kwargs)

    kind.before_start = before_start  # type: ignore[method-assign]
    setattr(kind, _HOOKED, True)


def refused(task: Any) -> str:
    """Return why this delivery must not run, or "". Claims the row on the first call. Returns "" for messages not from an outbox.

    Also called before the start is announced, so that a suppressed copy does not count as an execution.
    """
    request = task.request
    alias = outbox_of(request)
    if alias is None or request.called_directly or not has_message(request):
        return ""
    known = request.__dict__.get("_tasks_demo_refused")
    if known is None:
        try:
            known = report(alias, request.id, "begun", lambda: _claim(alias, request)) or ""
            if not known:
                running.add(key_of(alias, request), renew=not request.is_eager)
        except Exception as error:  # noqa: BLE001  (our own failure: raised here, it would fail the job)
            logger.warning(
                "%s did not claim its row in the outbox %r, and runs: %s",
                request.id, alias, described(error), extra=job_fields(task_id=request.id),
            )  # fmt: skip
            known = ""
        request.__dict__["_tasks_demo_refused"] = known
    return str(known)


def record_simulated_death(request: Any) -> None:
    """Record that this process no longer runs the job, after a death simulated by tasks_demo.testing."""
    alias = outbox_of(request)
    if alias is not None:
        running.discard(key_of(alias, request))


# Raw SQL, because nearly every job runs it and Django takes longer to build the statement than SQLite to execute it.
_CLAIM = """
    UPDATE tasks_demo_records_outboxmessage
    SET started_at = {now}, seen_at = {now}, due_at = {later}, started_by = %s, generation = %s
    WHERE task_id = %s AND finished_at IS NULL AND generation < %s
"""


def _claim(alias: str, request: Any) -> str:
    """Claim the row. Returns why the claim is refused, or ""."""
    generation, me = generation_of(request), holder_of(request)
    if changed(alias, _CLAIM, first_look(), [me, generation, request.id, generation]):
        return ""
    rows = OutboxMessage.objects.using(alias).filter(task_id=request.id)
    look = Now() + timedelta(seconds=first_look())
    claim = {"started_at": Now(), "seen_at": Now(), "due_at": look, "started_by": me, "generation": generation}
    with running.claiming:  # two threads of this process have the same holder name
        while True:
            row: Any = rows.annotate(asked_at=Now()).first()
            if row is None:
                return ""  # deleted by hand or after the retention: run it, at least once
            state = RowState(row.finished_at is not None, row.started_by, row.generation)
            why = refusal(state, generation, _alive(alias, row, me))
            if why:
                return why
            # If two copies find the same dead holder, only one gets the row.
            same = rows.filter(started_by=row.started_by, generation=row.generation)
            if same.filter(finished_at__isnull=row.finished_at is None).update(finished_at=None, **claim):
                running.add(key_of(alias, request), renew=not request.is_eager)
                return ""


def _alive(alias: str, row: Any, me: str) -> bool:
    """Return whether the process that began the job still works on it."""
    if not row.started_by:
        return False
    if row.started_by == me:
        return (alias, row.task_id, row.generation) in running
    return is_alive(
        life_of(row.started_by), (row.asked_at - row.seen_at).total_seconds(),
        lease=settings.OUTBOX_LEASE_SECONDS, unfinished=settings.OUTBOX_UNFINISHED_SECONDS,
    )  # fmt: skip


def life_of(holder: str) -> Life:
    """Return what this machine knows about the process that a row names."""
    process = parse_process(holder)
    if process is None or not process.where or process.where != this_process("").where:
        return Life.UNKNOWN
    return Life.GONE if process.gone else Life.HERE


def _suppress(task: Any, why: str) -> None:
    request = task.request
    try:
        subject = subject_of(task, request.args, request.kwargs, request.id, request.hostname or "")
        log_delivery(
            task, logging.INFO, "superfluous", "not run again: %s. This copy is acknowledged.", why, subject=subject
        )
        reached(Point.SUPPRESSED, subject, why=why)
    except Exception as error:  # noqa: BLE001  (an observer's failure must not run a job twice)
        logger.warning(
            "The suppressed copy of %s was not recorded: %s",
            request.id, described(error), extra=job_fields(task_id=request.id),
        )  # fmt: skip
    raise SuperfluousCopy(why)
