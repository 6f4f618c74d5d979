"""outbox: a job is committed together with the business data, and a relay publishes it afterwards.

What is **not** guaranteed: that the job is published or run only once. A copy is published again on evidence that the last one
was lost, and the evidence can be wrong; a superfluous copy is suppressed before its body, unless the worker that began the job
is dead. So a job whose worker is killed runs again, and must bear it: combine it with ``dedup_lock`` or ``inbox``. Nor is the
order of two jobs kept.

    caller ──▶ BEGIN ─ business data ─ enqueue() ─ COMMIT          one row more, no broker involved
    relay  ──▶ take due rows (due_at += wait) ─▶ publish, confirmed ─▶ mark published        outbox/relay.py
    worker ──▶ claim the row (due_at += lease) ─▶ body, lease renewed ─▶ finished: never due again   outbox/progress.py

``due_at`` says when the relay looks at a row; only the end of the job stops that. A row that was never published is published;
one whose message waits in its queue waits on; one whose message was lost, or whose worker is dead, is published again
(outbox/evidence.py). That closes the fetch window of ``acks_late`` on Redis and survives the loss of everything the
broker held. All moments are taken from the clock of the outbox's database, but for an ``eta``, which is the caller's own word.
"""

from __future__ import annotations

import difflib
import math
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NoReturn

from celery import Task, current_app
from celery.canvas import Signature
from django.conf import settings as django_settings
from django.db import IntegrityError, connections, router, transaction
from kombu import compression
from kombu.exceptions import ContentDisallowed, SerializerNotInstalled
from kombu.serialization import dumps

from tasks_demo.core import clock
from tasks_demo.core.clock import Now
from tasks_demo.core.databases import unsupported
from tasks_demo.core.exceptions import ArgumentsNotJson, InvalidOperationKey, OutboxRefused
from tasks_demo.core.lifecycle import described
from tasks_demo.patterns.acks_late import AcksLate
from tasks_demo.patterns.base import PatternTask
from tasks_demo.patterns.publishing import arguments, prepared
from tasks_demo.patterns.transactions import transaction_open
from tasks_demo.records.models import OutboxMessage
from tasks_demo.records.serialised import packed, unpacked

#: Options that can be kept for later, and what each must be.
OPTIONS: dict[str, type | tuple[type, ...]] = {
    "queue": str, "exchange": str, "routing_key": str, "priority": int, "headers": Mapping, "serializer": str,
    "compression": str, "shadow": str, "ignore_result": bool, "time_limit": (int, float), "soft_time_limit": (int, float),
    "countdown": (int, float), "eta": datetime, "expires": (int, float, datetime),
}  # fmt: skip

#: Of these options: what raises for a name that kombu does not know.
REGISTRIES: dict[str, Callable[[str], Any]] = {
    "serializer": partial(dumps, []), "compression": compression.get_encoder,
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
    external: bool = False,
    **options: Any,
) -> str:
    """Write one message with the caller's transaction; returns the task ID. The broker is not asked.

    ``options`` are those of ``apply_async``; ``countdown`` (seconds) and ``eta`` are waited for in the outbox, not in a worker.
    The arguments are kept as the task's serializer writes them. Outside a transaction the row is committed at once. Raises
    OutboxRefused, before anything is written, for what could not be published later, for a database that is neither SQLite nor
    PostgreSQL, for a task or queue that this app does not know, unless ``external`` says that another app has it, and for a
    transaction that is open on other databases only, unless ``independent`` says that it is meant; and ContradictoryDeclaration
    for options that ``apply_async`` of the task refuses.
    """
    alias = using or router.db_for_write(OutboxMessage)
    if why := unsupported(alias):
        _refuse(f"{why}. Send the app tasks_demo_records to another database with a router, or name one with using=")
    name, known = _checked_task(task, args, kwargs or {}, external)
    args, kwargs, options = _as_published(known, args, kwargs or {}, options)
    _check_queue(options, external)
    if not independent:
        _check_transaction(alias)
    if task_id is not None and not (0 < len(task_id) <= 255 and task_id.isprintable()):
        _refuse("the task ID must be 1 to 255 printable characters")
    kept = _kept(options)
    _check_route(name, known, args, kwargs, kept)
    text, content_type, content_encoding = _packed(known, args, kwargs, kept)
    message = OutboxMessage(
        task_id=task_id or str(uuid.uuid4()),
        task=name,
        arguments=text,
        content_type=content_type,
        content_encoding=content_encoding,
        options=kept,
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


# -- what can be published later ----------------------------------------------------------------------------------------------


def _refuse(why: str) -> NoReturn:
    raise OutboxRefused(f"This job could not be published later: {why}. Nothing was written to the outbox.")


def _checked_task(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], external: bool) -> tuple[str, Any]:
    """The task's name, and the task itself; None: another app has it."""
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
    if known is None and not external:
        known = _loaded(name)
    return name, known


def _as_published(
    known: Any, args: Any, kwargs: Any, options: dict[str, Any]
) -> tuple[Sequence[Any], Mapping[str, Any], dict[str, Any]]:
    """What ``apply_async`` would publish, with the operation key, and what it refuses: here, where the caller sees it."""
    if known is None:
        return args, kwargs, options
    if known.soft_time_limit and known.time_limit and known.soft_time_limit > known.time_limit:
        _refuse(
            f"the task {known.name} has soft_time_limit={known.soft_time_limit!r} above time_limit={known.time_limit!r}, and "
            "Celery publishes no such job. Write a soft limit below the hard one, in its declaration or the settings"
        )
    if isinstance(known, PatternTask):
        known.check_call(options)
    try:
        if not isinstance(known, PatternTask) or not isinstance(options.get("headers") or {}, Mapping):
            return (*arguments(known, args, kwargs, options), options)
        return prepared(known, args, kwargs, options)
    except (InvalidOperationKey, ArgumentsNotJson) as error:
        raise OutboxRefused(
            f"This job could not be published later: {error} Nothing was written to the outbox."
        ) from error
    except TypeError as error:
        _refuse(f"the arguments do not fit {known.name}: {error}")


def _packed(
    known: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[str, str, str]:
    """The arguments as text, as the serializer of this message writes them; refused if they could not be read again."""
    conf = current_app.conf
    serializer = options.get("serializer") or getattr(known, "serializer", None) or conf.task_serializer
    try:
        written = packed([list(args), dict(kwargs)], serializer)
        unpacked(*written, ["json", *conf.accept_content])
    except ContentDisallowed:
        _refuse(
            f"the relay may not read what the serializer {serializer!r} writes: it is not in accept_content. Add it there"
        )
    except Exception as error:  # noqa: BLE001  (the methods of an argument are anybody's)
        _refuse(
            f"the serializer {serializer!r} cannot carry its arguments ({described(error)}). Pass text, numbers, dates, lists "
            "and dictionaries, and an id instead of an object"
        )
    return written


def _check_route(
    name: str, known: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    """Refuse a job for which Celery finds no queue: its task, or the app's routes, name one that is not declared."""
    if current_app.conf.task_create_missing_queues and not current_app.conf.task_routes:
        return
    route = {name: options[name] for name in ("queue", "exchange", "routing_key") if name in options}
    try:
        current_app.amqp.router.route({**_own_route(known), **route}, name, tuple(args), dict(kwargs), known)
    except Exception as error:  # noqa: BLE001  (a router of the project's own raises anything)
        _refuse(
            f"Celery finds no queue for it ({described(error)}). Declare the queue in task_queues, or correct task_routes"
        )


def _own_route(known: Any) -> dict[str, Any]:
    return {name: value for name in ("queue", "exchange", "routing_key") if (value := getattr(known, name, None))}


def _loaded(name: str) -> Any:
    """The task of this name once the app has imported all its task modules, as a worker does."""
    if name not in current_app.tasks:
        current_app.loader.import_default_modules()
    if name not in current_app.tasks:
        _refuse(
            f"no task {name!r} is registered in the app {current_app.main or 'default'!r}{_nearest(name, current_app.tasks)}. "
            "A worker would drop it. For a task that only another app has pass external=True"
        )
    return current_app.tasks[name]


def _check_queue(options: Mapping[str, Any], external: bool) -> None:
    """Refuse a queue that nobody is known to read: not in ``task_queues``, if the app declares some."""
    queue, conf = options.get("queue"), current_app.conf
    if not isinstance(queue, str) or not (conf.task_queues or not conf.task_create_missing_queues):
        return
    # Not amqp.queues: that learns every name that was ever published to.
    declared = {conf.task_default_queue, *(getattr(each, "name", each) for each in conf.task_queues or ())}
    if queue in declared:
        return
    if not conf.task_create_missing_queues:  # Celery itself would refuse to publish to it
        _refuse(f"the queue {queue!r} is not declared{_nearest(queue, declared)}. Add it to task_queues")
    if not external:
        _refuse(
            f"the queue {queue!r} is not in task_queues{_nearest(queue, declared)}, so no worker of this app is known to read "
            "it. Add it there, or pass external=True if others read it"
        )


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, [each for each in known if not each.startswith("celery.")], 1)
    return f"; did you mean {near[0]!r}?" if near else ""


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
        if name in REGISTRIES:
            try:
                REGISTRIES[name](str(value))
            except (SerializerNotInstalled, KeyError):
                _refuse(f"the {name} {value!r} is not installed")
        if name not in {"countdown", "eta"}:  # they are in due_at
            kept[name] = clock.aware(value).isoformat() if isinstance(value, datetime) else _json(name, value)
    return kept


def _json(where: str, value: Any) -> Any:
    """The value of an option as lists, dicts and scalars that come back from JSON as they were.

    It is kept in a column that PostgreSQL normalises: a header of 1e16 arrives as an int.
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
