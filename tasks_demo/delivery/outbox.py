"""outbox: a job is committed together with the business data, and a relay publishes it afterwards.

What is **not** guaranteed: that the job is published or run only once. A relay that dies between publishing and marking has the
message published again, and so does a message that waits in a long queue, because from here waiting looks like loss. Nor is
the order of two jobs kept. A job must therefore bear being run twice: combine it with ``dedup_lock`` or ``inbox``.

    caller ──▶ BEGIN ─ business data ─ enqueue() ─ COMMIT          one row more, no broker involved
    relay  ──▶ take due rows (due_at += wait) ─▶ publish, confirmed ─▶ mark published        delivery/relay.py
    worker ──▶ started: due_at += unfinished wait ─▶ body ─▶ finished: never due again

``due_at`` is the one mechanism: a row that is due and not finished is published, for the first time or again. Publishing
only moves it into the future; only the end of the job takes it out. That closes the fetch window of ``acks_late`` on Redis and
survives the loss of everything the broker held. All moments are taken from the clock of the outbox's database, but for an
``eta``, which is the caller's own word.
"""

from __future__ import annotations

import logging
import math
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import Any, NoReturn

from celery import Task, current_app, signals
from celery.canvas import Signature
from celery.exceptions import TimeLimitExceeded
from django.conf import settings as django_settings
from django.db import Error, IntegrityError, connections, router, transaction
from django.utils.connection import ConnectionDoesNotExist
from kombu.exceptions import SerializerNotInstalled
from kombu.serialization import dumps

from tasks_demo import clock
from tasks_demo.clock import Now
from tasks_demo.conf import settings
from tasks_demo.delivery.acks_late import AcksLate
from tasks_demo.delivery.base import PatternTask
from tasks_demo.delivery.putting_back import NotOver
from tasks_demo.delivery.rows import transaction_open
from tasks_demo.durable.models import OutboxMessage
from tasks_demo.exceptions import NothingToRequeue, OutboxRefused

logger = logging.getLogger(__name__)
#: Header of a message that a relay published: the alias of the outbox that waits for its marks.
HEADER = "tasks_demo_outbox"
#: So long, in seconds, the event loop of the worker's main process waits for one of its own marks.
MAIN_SECONDS = 5.0
#: Options that can be kept for later, and what each must be.
OPTIONS: dict[str, type | tuple[type, ...]] = {
    "queue": str, "exchange": str, "routing_key": str, "priority": int, "headers": Mapping, "serializer": str,
    "compression": str, "shadow": str, "ignore_result": bool, "time_limit": (int, float), "soft_time_limit": (int, float),
    "countdown": (int, float), "eta": datetime, "expires": (int, float, datetime),
}  # fmt: skip


class Outbox(AcksLate):
    """Promise: at least 1 execution and 1 effect per committed message, on Redis too.

    It holds for jobs that went through :func:`enqueue` and while a relay runs; ``delay()`` on such a task is plain ``acks_late``.
    """

    abstract = True
    pattern = "outbox"


def enqueue(
    task: str | Task[Any, Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    task_id: str | None = None,
    using: str | None = None,
    independent: bool = False,
    **options: Any,
) -> str:
    """Write one message with the caller's transaction; returns the task ID. The broker is not asked.

    ``options`` are those of ``apply_async``; ``countdown`` (seconds) and ``eta`` are waited for in the outbox, not in a worker.
    Outside a transaction the row is committed at once. Raises OutboxRefused, before anything is written, for what could not be
    published later, and for a transaction that is open on other databases only, unless ``independent`` says that it is meant.
    """
    alias = using or router.db_for_write(OutboxMessage)
    name = _checked_task(task, args, kwargs or {}, options)
    if not independent:
        _check_transaction(alias)
    if task_id is not None and not (0 < len(task_id) <= 255 and task_id.isprintable()):
        _refuse("the task ID must be 1 to 255 printable characters")
    message = OutboxMessage(
        task_id=task_id or str(uuid.uuid4()),
        task=name,
        args=_json("args", list(args)),
        kwargs=_json("kwargs", dict(kwargs or {})),
        options=_kept(options),
        created_at=Now(),
        due_at=_due(options),
    )
    try:
        # A savepoint where the ID is the caller's: the transaction outlives a repetition.
        with transaction.atomic(using=alias) if task_id is not None else nullcontext():
            message.save(using=alias, force_insert=True)
    except IntegrityError as error:
        raise OutboxRefused(
            f"Task ID {message.task_id} is in the outbox already. Nothing was written; the first message stands."
        ) from error
    return message.task_id


def prune(before: datetime, using: str | None = None, *, most: int | None = None) -> int:
    """Delete messages that were finished before this moment, 1000 a commit, ``most`` in all; returns how many it were."""
    rows = OutboxMessage.objects.using(using or router.db_for_write(OutboxMessage))
    removed = 0
    while most is None or removed < most:
        size = 1000 if most is None else min(1000, most - removed)
        ids = list(rows.filter(finished_at__lt=before).order_by("finished_at").values_list("id", flat=True)[:size])
        removed += rows.filter(id__in=ids).delete()[0]
        if len(ids) < size:
            break
    return removed


# -- what can be published later ----------------------------------------------------------------------------------------------


def _refuse(why: str) -> NoReturn:
    raise OutboxRefused(f"This job could not be published later: {why}. Nothing was written to the outbox.")


def _checked_task(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    if isinstance(task, Signature) or not isinstance(task, str | Task):
        _refuse(f"{task!r} is neither a task nor the name of one; pass a signature's task, args and kwargs separately")
    if isinstance(args, str) or not isinstance(args, Sequence) or not isinstance(kwargs, Mapping):
        _refuse(f"args={args!r:.40} and kwargs={kwargs!r:.40} must be a list or tuple and a dict")
    name = task if isinstance(task, str) else str(task.name)
    known: Any = current_app.tasks.get(name)
    if not isinstance(task, str) and known is None:
        _refuse(f"the task {name!r} is not registered; declare it where Celery finds it, or pass a name as text")
    if not 0 < len(name) <= 255:
        _refuse("the task's name must have 1 to 255 characters")
    if known is not None and getattr(known, "typing", False):
        try:
            known.__header__(*args, **kwargs)
        except TypeError as error:
            _refuse(f"the arguments do not fit {name}: {error}")
    if isinstance(known, PatternTask):
        known.check_options(dict(options))
    return name


def _check_transaction(alias: str) -> None:
    if transaction_open(alias):
        return
    others = [c.alias for c in connections.all(initialized_only=True) if transaction_open(c.alias)]
    if others:
        raise OutboxRefused(
            f"A transaction is open on {', '.join(map(repr, others))}, but the outbox is in {alias!r}: the message would be "
            f"committed even if the transaction is rolled back. Nothing was written. Open a transaction on {alias!r}, keep the "
            "business data there, or pass independent=True if the job does not depend on that transaction."
        )


def _due(options: Mapping[str, Any]) -> Any:
    eta, countdown = options.get("eta"), options.get("countdown")
    if eta is not None and countdown is not None:
        _refuse("countdown and eta exclude each other")
    if eta is not None:
        return clock.stored(eta)
    return Now() + timedelta(seconds=countdown) if countdown else Now()


def _kept(options: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in options.items():
        if name not in OPTIONS:
            _refuse(f"the option {name!r} cannot be kept; known are {', '.join(OPTIONS)}")
        if value is None:
            continue
        wanted = OPTIONS[name]
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            kinds = wanted if isinstance(wanted, tuple) else (wanted,)
            _refuse(f"{name}={value!r} is not {' or '.join(kind.__name__ for kind in kinds)}")
        if isinstance(value, datetime) and value.tzinfo is None and django_settings.USE_TZ:
            _refuse(f"{name}={value!r} has no time zone")
        # A year is far beyond any countdown, and within what every database can add.
        seconds: Any = value if name in {"countdown", "expires"} and not isinstance(value, datetime) else 0
        if not (math.isfinite(seconds) and 0 <= seconds <= 366 * 86400):
            _refuse(f"{name}={value!r} is not between 0 seconds and a year")
        if name == "serializer":
            try:
                dumps([], str(value))
            except SerializerNotInstalled:
                _refuse(f"the serializer {value!r} is not installed")
        if name not in {"countdown", "eta"}:  # they are in due_at
            kept[name] = clock.aware(value).isoformat() if isinstance(value, datetime) else _json(name, value)
    return kept


def _json(where: str, value: Any) -> Any:
    """The value as lists, dicts and scalars that come back from JSON as they were.

    Only the arguments are kept as text. Options are in a column that PostgreSQL normalises: a header of 1e16 arrives as an int.
    """
    match value:
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
        case str():
            if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
                _refuse(f"{where} holds a NUL or half a surrogate pair, which not every database and serializer takes")
            return value
        case list() | tuple():
            return [_json(f"{where}[{index}]", item) for index, item in enumerate(value)]
        case Mapping():
            for key in value:
                if not isinstance(key, str):
                    _refuse(f"{where} has the key {key!r}, and JSON has text keys only")
            return {_json(where, key): _json(f"{where}[{key!r}]", item) for key, item in value.items()}
    _refuse(f"{where} is {value!r:.80}, a {type(value).__name__} and not plain JSON; pass text or a number instead")


# -- what the worker reports ----------------------------------------------------------------------------------------------------


@signals.task_prerun.connect(weak=False, dispatch_uid="tasks_demo.outbox.started")
def _started(sender: Any = None, task_id: str = "", task: Any = None, **_: Any) -> None:
    if HEADER in (task.request.headers or {}):
        patience = timedelta(seconds=settings.OUTBOX_UNFINISHED_SECONDS)
        _mark(task.request, task_id, started_at=Now(), due_at=Now() + patience)


@signals.task_postrun.connect(weak=False, dispatch_uid="tasks_demo.outbox.finished")
def _finished(
    sender: Any = None, task_id: str = "", task: Any = None, state: Any = None, retval: Any = None, **_: Any
) -> None:
    # After RETRY and REJECTED the message may come again, and after an Ignore of ours; after that of a body nothing follows.
    if state in {"SUCCESS", "FAILURE", "IGNORED"} and not isinstance(retval, (NotOver, NothingToRequeue)):
        _mark(task.request, task_id, finished_at=Now())


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
            logger.warning("The outbox has not answered for %g s: %s may be published again.", MAIN_SECONDS, task_id)


def _mark(request: Any, task_id: str, **values: Any) -> None:
    """Report to the outbox that this message came from. A failure changes nothing: the message is then published again."""
    alias = (request.headers or {}).get(HEADER)
    if not isinstance(alias, str):
        return
    rows = OutboxMessage.objects.using(alias).filter(task_id=task_id, finished_at=None)
    try:
        try:
            rows.update(**values)
        except Error:
            # Once more on a new connection: the server may have been restarted since the last task.
            connections[alias].close()
            rows.update(**values)
    except (Error, ConnectionDoesNotExist) as error:
        logger.warning(
            "%s could not be marked %s in the outbox %r (%s: %s). It will be published again.",
            task_id, "/".join(values), alias, type(error).__name__, " ".join(str(error).split()),
        )  # fmt: skip
