"""What a worker tells the outbox that a message came from: it begins, it lives, it has ended, or a later copy follows.

    before the body: claim the row, in one statement ─┬─ claimed ──▶ the body runs; its lease is renewed while it does
                                                      └─ refused ──▶ Superfluous: the copy is acknowledged, nothing runs
    after it:        finished, or given up to the later copy (a retry, a deferral), or to any (requeued, parked, killed)

The claim is made in ``before_start`` of every task of the worker, with a pattern or without. What is **not** guaranteed:

- That a copy is refused while the outbox's database does not answer: the promise is at least once, so it runs.
- That a pool without such hooks claims, nor a task that a running worker registers later: they run every copy.
- That a finished row whose mark failed is known as such: the mark is tried again for as long as the process lives.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from celery import Task, signals
from celery.exceptions import Reject, Retry, TimeLimitExceeded
from django.db import Error, connections
from django.utils.connection import ConnectionDoesNotExist

from tasks_demo.core import clock
from tasks_demo.core.clock import Now
from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import NothingToRequeue
from tasks_demo.core.lifecycle import Point, described, job_fields, reached
from tasks_demo.leases.process import parse_process, this_process
from tasks_demo.outbox.evidence import OPEN, Life, State, lives, refusal
from tasks_demo.outbox.heartbeat import running
from tasks_demo.patterns.execution import ends_process
from tasks_demo.patterns.requeue import DEFERRALS, Unfinished, bounded_int, has_message, log_delivery
from tasks_demo.patterns.subjects import subject_of
from tasks_demo.records.models import OutboxMessage

logger = logging.getLogger(__name__)
#: Header of a message that a relay published: the alias of the outbox that waits for its marks.
HEADER = "tasks_demo_outbox"
#: So long, in seconds, the event loop of the worker's main process waits for one of its own marks.
MAIN_SECONDS = 5.0
_HOOKED = "_tasks_demo_outbox_hooked"


class Superfluous(Unfinished):
    """The copy is acknowledged and not run: the job has ended, is running, or goes on with another copy."""


def generation_of(request: Any) -> int:
    """How many retries and deferrals lie behind this copy."""
    deferrals = bounded_int((request.headers or {}).get(DEFERRALS), 2**30)
    return bounded_int(request.retries, 2**30) + deferrals


def life_of(holder: str) -> Life:
    """What can be known here of the process that a row names."""
    process = parse_process(holder)
    if process is None or not process.where or process.where != this_process("").where:
        return Life.UNKNOWN
    return Life.GONE if process.gone else Life.HERE


def first_look() -> float:
    """Seconds after which a relay looks whether who began a job lives."""
    return float(min(settings.OUTBOX_LEASE_SECONDS, settings.OUTBOX_UNSTARTED_SECONDS))


# -- before the body ------------------------------------------------------------------------------------------------------------


@signals.worker_init.connect(weak=False, dispatch_uid="tasks_demo.outbox.hooked")
def _hook(sender: Any = None, **_: Any) -> None:
    """Have every task of this worker claim its row before it starts. Celery has no signal that may refuse a task."""
    for task in list(sender.app.tasks.values()):
        hook(type(task))


def hook(kind: type[Task[Any, Any]]) -> None:
    """Put the claim in front of what ``before_start`` of this class does."""
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
    """Why this delivery must not run, or "". Claims the row the first time it is asked; no message of an outbox: "".

    Called by whoever must know before the body does, so that a suppressed copy counts as no execution.
    """
    request = task.request
    alias = (request.headers or {}).get(HEADER)
    if not isinstance(alias, str) or request.called_directly or not has_message(request):
        return ""
    known = request.__dict__.get("_tasks_demo_refused")
    if known is None:
        try:
            known = _attempt(alias, request.id, "begun", lambda: _claim(alias, request)) or ""
            if not known:
                running.add(_key(alias, request), beats=not request.is_eager)
        except Exception as error:  # noqa: BLE001  (of ours: to raise it here would fail the job)
            logger.warning(
                "%s did not claim its row in the outbox %r, and runs: %s",
                request.id,
                alias,
                described(error),
                extra=job_fields(task_id=request.id),
            )
            known = ""
        request.__dict__["_tasks_demo_refused"] = known
    return str(known)


def died(request: Any) -> None:
    """Of a death that is only played (tasks_demo.testing): this process does not run the job any more."""
    alias = (request.headers or {}).get(HEADER)
    if isinstance(alias, str):
        running.discard(_key(alias, request))


def _key(alias: str, request: Any) -> tuple[str, str, int]:
    return alias, request.id, generation_of(request)


# What nearly every job needs is written out: Django takes longer to build these two statements than SQLite to run them.
_CLAIM = """
    UPDATE tasks_demo_records_outboxmessage
    SET started_at = {now}, seen_at = {now}, due_at = {later}, started_by = %s, generation = %s
    WHERE task_id = %s AND finished_at IS NULL AND generation < %s
"""
_FINISH = """
    UPDATE tasks_demo_records_outboxmessage SET finished_at = {now} WHERE task_id = %s AND finished_at IS NULL
"""


def _changed(alias: str, statement: str, seconds: float, parameters: list[Any]) -> int:
    """The number of rows that the statement changed; ``seconds`` from now are its ``later``."""
    connection = connections[alias]
    text = statement.format(now=clock.sql_now(connection), later=clock.sql_now(connection, seconds))
    with connection.cursor() as cursor:
        cursor.execute(text, parameters)
        return int(cursor.rowcount)


def _claim(alias: str, request: Any) -> str:
    """Claim the row; why it cannot be, or ""."""
    generation, me = generation_of(request), str(this_process(request.hostname or ""))[:255]
    if _changed(alias, _CLAIM, first_look(), [me, generation, request.id, generation]):
        return ""
    rows = OutboxMessage.objects.using(alias).filter(task_id=request.id)
    look = Now() + timedelta(seconds=first_look())
    claim = {"started_at": Now(), "seen_at": Now(), "due_at": look, "started_by": me, "generation": generation}
    with running.claiming:  # two threads of this process are one holder to the row
        while True:
            row: Any = rows.annotate(asked_at=Now()).first()
            if row is None:
                return ""  # removed by hand, or ended before the retention: at least once
            why = refusal(_state(row), generation, _alive(alias, row, me))
            if why:
                return why
            # Of two copies that find the same dead holder one gets the row.
            same = rows.filter(started_by=row.started_by, generation=row.generation)
            if same.filter(finished_at__isnull=row.finished_at is None).update(finished_at=None, **claim):
                running.add((alias, request.id, generation), beats=not request.is_eager)
                return ""


def _state(row: Any) -> State:
    return State(row.finished_at is not None, row.started_by, row.generation)


def _alive(alias: str, row: Any, me: str) -> bool:
    """Whether the process that has begun the job still works on it."""
    if not row.started_by:
        return False
    if row.started_by == me:
        return (alias, row.task_id, row.generation) in running
    return lives(
        life_of(row.started_by), (row.asked_at - row.seen_at).total_seconds(),
        lease=settings.OUTBOX_LEASE_SECONDS, unfinished=settings.OUTBOX_UNFINISHED_SECONDS,
    )  # fmt: skip


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
            request.id,
            described(error),
            extra=job_fields(task_id=request.id),
        )
    raise Superfluous(why)


# -- after it -------------------------------------------------------------------------------------------------------------------


@signals.task_postrun.connect(weak=False, dispatch_uid="tasks_demo.outbox.finished")
def _ended(
    sender: Any = None, task_id: str = "", task: Any = None, state: Any = None, retval: Any = None, **_: Any
) -> None:
    request = task.request
    alias = (request.headers or {}).get(HEADER)
    if not isinstance(alias, str) or isinstance(retval, Superfluous):
        return
    running.discard(_key(alias, request))
    if isinstance(retval, NothingToRequeue):
        return
    if _is_end(state, retval):
        if _attempt(alias, task_id, "finished", lambda: _changed(alias, _FINISH, 0.0, [task_id])) is None:
            running.owe((alias, task_id))
        return
    later: dict[str, Any] = {"started_by": ""}
    seconds = _until_the_next(state, retval)
    if seconds is None:  # the same message may come again, or somebody sends a copy
        later |= {"generation": OPEN, "due_at": Now() + timedelta(seconds=settings.OUTBOX_UNSTARTED_SECONDS)}
    else:
        due = timedelta(seconds=seconds + settings.OUTBOX_UNSTARTED_SECONDS)
        later |= {"published_at": Now() + timedelta(seconds=seconds), "due_at": Now() + due}
    mine = str(this_process(request.hostname or ""))[:255]
    _mark(request, task_id, started_by__is=mine, generation__is=generation_of(request), **later)


def _is_end(state: Any, retval: Any) -> bool:
    """Whether nothing comes after this execution. No state: what came out of it is no Exception, and Celery stores FAILURE."""
    match state:
        case "SUCCESS" | "FAILURE":
            return True
        case "IGNORED":  # the body's own word, or a copy that was suppressed
            return not isinstance(retval, Unfinished)
        case "REJECTED":
            return not (getattr(retval, "requeue", False) or _retry_not_published(retval))
        case None:
            error = sys.exc_info()[1]
            return error is not None and not isinstance(error, Exception) and not ends_process(error)
    return False


def _retry_not_published(retval: Any) -> bool:
    """Whether Celery rejects the job because it could not publish its retry (celery/app/task.py ``retry``), not the body."""
    trace = retval.__traceback__ if isinstance(retval, Reject) else None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code is Task.retry.__code__


def _until_the_next(state: Any, retval: Any) -> float | None:
    """Seconds until the later copy that was published is delivered; None: there is none that is known."""
    if isinstance(retval, Unfinished):
        return retval.seconds
    if state != "RETRY" or not isinstance(retval, Retry) or retval.when is None:
        return None
    if isinstance(retval.when, datetime):
        return max(0.0, retval.when.timestamp() - time.time())
    return max(0.0, float(retval.when))


@signals.task_failure.connect(weak=False, dispatch_uid="tasks_demo.outbox.timed_out")
def _timed_out(sender: Any = None, task_id: str = "", exception: Any = None, **_: Any) -> None:
    """The hard time limit is an end that main alone can report: it kills the process. Other failures that process has marked.

    Celery sends this twice (celery/worker/request.py): from ``on_failure`` with the request at hand, unless the message goes
    back to the broker, which is no end; and from ``on_timeout`` always, without it. Pools that know ``on_timeout`` only
    (gevent) therefore report nothing, and the message comes again.
    """
    if isinstance(exception, TimeLimitExceeded):
        _mark_from_main(sender.request, task_id, finished_at=Now())


@signals.task_revoked.connect(weak=False, dispatch_uid="tasks_demo.outbox.revoked")
def _revoked(sender: Any = None, request: Any = None, **_: Any) -> None:
    # Somebody decided that it must not run: the reconciler must not bring it back.
    _mark_from_main(request, request.id, finished_at=Now(), error="revoked")


def _mark_from_main(request: Any, task_id: str, **values: Any) -> None:
    """As ``_mark``, in main's event loop, which no database may hold up for longer than MAIN_SECONDS.

    The thread has a connection of its own, so that none is left open to go stale in main or to be inherited by a fork. If it
    is not back in time the loop goes on, and the mark is made late, or not at all: the message is then published again.
    """

    def mark() -> None:
        try:
            _mark(request, task_id, **values)
        finally:
            connections.close_all()

    if HEADER in (request.headers or {}):
        thread = threading.Thread(target=mark, name="outbox-mark", daemon=True)
        thread.start()
        thread.join(MAIN_SECONDS)
        if thread.is_alive():
            logger.warning(
                "The outbox has not answered for %g s: %s may be published again.",
                MAIN_SECONDS,
                task_id,
                extra=job_fields(task_id=task_id),
            )


def _mark(request: Any, task_id: str, **values: Any) -> int | None:
    """Report to the outbox that this message came from, if its row is as the ``__is`` values say. None: it did not answer."""
    alias = (request.headers or {}).get(HEADER)
    if not isinstance(alias, str):
        return 0
    wanted = {name.removesuffix("__is"): values.pop(name) for name in list(values) if name.endswith("__is")}
    rows = OutboxMessage.objects.using(alias).filter(task_id=task_id, finished_at=None, **wanted)
    marked: int | None = _attempt(alias, task_id, "/".join(values), lambda: rows.update(**values))
    return marked


def _attempt(alias: str, task_id: str, what: str, ask: Callable[[], Any]) -> Any:
    """The answer of the outbox, or None, with a warning."""
    try:
        try:
            return ask()
        except Error:
            # Once more on a new connection: the server may have been restarted since the last task.
            connections[alias].close()
            return ask()
    except (Error, ConnectionDoesNotExist) as error:
        logger.warning(
            "%s could not be marked %s in the outbox %r (%s: %s). It runs all the same, and may be published again.",
            task_id, what, alias, type(error).__name__, " ".join(str(error).split()), extra=job_fields(task_id=task_id),
        )  # fmt: skip
        return None
