"""Refuses, when a job is enqueued, what a relay could not publish or no worker would run.

What is **not** checked: queues of an app that declares none, because it creates any queue that is named. Each function raises
OutboxRefused, which says what to write instead, before anything is written.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NoReturn

from celery import Task, current_app
from celery.canvas import Signature
from django.conf import settings as django_settings
from kombu import compression
from kombu.exceptions import ContentDisallowed, SerializerNotInstalled
from kombu.serialization import dumps

from tasks_demo.core import clock
from tasks_demo.core.clock import Now
from tasks_demo.core.exceptions import ArgumentsNotJson, InvalidOperationKey, OutboxRefused
from tasks_demo.core.lifecycle import described
from tasks_demo.patterns.base import PatternTask
from tasks_demo.patterns.publishing import arguments, prepared
from tasks_demo.records.serialised import packed, unpacked

#: The options that can be stored, and their types.
OPTIONS: dict[str, type | tuple[type, ...]] = {
    "queue": str, "exchange": str, "routing_key": str, "priority": int, "headers": Mapping, "serializer": str,
    "compression": str, "shadow": str, "ignore_result": bool, "time_limit": (int, float), "soft_time_limit": (int, float),
    "countdown": (int, float), "eta": datetime, "expires": (int, float, datetime),
}  # fmt: skip

#: Options that name something registered in kombu, with the function that raises for an unknown name.
REGISTRIES: dict[str, Callable[[str], Any]] = {
    "serializer": partial(dumps, []), "compression": compression.get_encoder,
}  # fmt: skip


def refuse(why: str) -> NoReturn:
    """Raise OutboxRefused."""
    raise OutboxRefused(f"This job could not be published later: {why}. Nothing was written to the outbox.")


def checked_task(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], external: bool) -> tuple[str, Any]:
    """Return the task's name and the task, or None for the task if another app has it."""
    if isinstance(task, Signature) or not isinstance(task, str | Task):
        refuse(f"{task!r} is neither a task nor the name of one; pass a signature's task, args and kwargs separately")
    if isinstance(args, str) or not isinstance(args, Sequence) or not isinstance(kwargs, Mapping):
        refuse(f"args={args!r:.40} and kwargs={kwargs!r:.40} must be a list or tuple and a dict")
    name = task if isinstance(task, str) else str(task.name)
    known: Any = current_app.tasks.get(name)
    if not isinstance(task, str) and known is None:
        refuse(f"the task {name!r} is not registered; declare it where Celery finds it, or pass a name as text")
    if not 0 < len(name) <= 255:
        refuse("the task's name must have 1 to 255 characters")
    if known is None and not external:
        known = _loaded(name)
    return name, known


def as_published(
    known: Any, args: Any, kwargs: Any, options: dict[str, Any]
) -> tuple[Sequence[Any], Mapping[str, Any], dict[str, Any]]:
    """Return the arguments and options that ``apply_async`` would publish, including the operation key. Refuses what it
    refuses.
    """
    if known is None:
        return args, kwargs, options
    if known.soft_time_limit and known.time_limit and known.soft_time_limit > known.time_limit:
        refuse(
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
        refuse(f"the arguments do not fit {known.name}: {error}")


def packed_arguments(
    known: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[str, str, str]:
    """Return the arguments, serialized as this message would be: text, content type, content encoding. Refuses arguments that
    could not be deserialized.
    """
    conf = current_app.conf
    serializer = options.get("serializer") or getattr(known, "serializer", None) or conf.task_serializer
    try:
        written = packed([list(args), dict(kwargs)], serializer)
        unpacked(*written, ["json", *conf.accept_content])
    except ContentDisallowed:
        refuse(
            f"the relay may not read what the serializer {serializer!r} writes: it is not in accept_content. Add it there"
        )
    except Exception as error:  # noqa: BLE001  (an argument's methods may raise anything)
        refuse(
            f"the serializer {serializer!r} cannot carry its arguments ({described(error)}). Pass text, numbers, dates, lists "
            "and dictionaries, and an id instead of an object"
        )
    return written


def check_route(
    name: str, known: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    """Refuse a job for which Celery finds no queue, because its task or the app's routes name an undeclared one."""
    if current_app.conf.task_create_missing_queues and not current_app.conf.task_routes:
        return
    route = {name: options[name] for name in ("queue", "exchange", "routing_key") if name in options}
    try:
        current_app.amqp.router.route({**_own_route(known), **route}, name, tuple(args), dict(kwargs), known)
    except Exception as error:  # noqa: BLE001  (the project's own router may raise anything)
        refuse(
            f"Celery finds no queue for it ({described(error)}). Declare the queue in task_queues, or correct task_routes"
        )


def _own_route(known: Any) -> dict[str, Any]:
    return {name: value for name in ("queue", "exchange", "routing_key") if (value := getattr(known, name, None))}


def _loaded(name: str) -> Any:
    """Return the task of this name. Imports all task modules of the app, as a worker does, if the name is unknown."""
    if name not in current_app.tasks:
        current_app.loader.import_default_modules()
    if name not in current_app.tasks:
        refuse(
            f"no task {name!r} is registered in the app {current_app.main or 'default'!r}{_nearest(name, current_app.tasks)}. "
            "A worker would drop it. For a task that only another app has pass external=True"
        )
    return current_app.tasks[name]


def check_queue(options: Mapping[str, Any], external: bool) -> None:
    """Refuse a queue that is not in ``task_queues``, if the app declares any: no worker is known to consume it."""
    queue, conf = options.get("queue"), current_app.conf
    if not isinstance(queue, str) or not (conf.task_queues or not conf.task_create_missing_queues):
        return
    # Not amqp.queues: Celery adds every name that was ever published to.
    declared = {conf.task_default_queue, *(getattr(each, "name", each) for each in conf.task_queues or ())}
    if queue in declared:
        return
    if not conf.task_create_missing_queues:  # Celery itself would refuse to publish to it
        refuse(f"the queue {queue!r} is not declared{_nearest(queue, declared)}. Add it to task_queues")
    if not external:
        refuse(
            f"the queue {queue!r} is not in task_queues{_nearest(queue, declared)}, so no worker of this app is known to read "
            "it. Add it there, or pass external=True if others read it"
        )


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, [each for each in known if not each.startswith("celery.")], 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def due(options: Mapping[str, Any]) -> Any:
    """Return when the job is first to be published: a time, or an expression on the database's clock."""
    eta, countdown = options.get("eta"), options.get("countdown")
    if eta is not None and countdown is not None:
        refuse("countdown and eta exclude each other")
    if eta is not None:
        return clock.for_column(eta)
    return Now() + timedelta(seconds=countdown) if countdown else Now()


def kept_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options as they are stored. Refuses options that cannot be stored."""
    kept: dict[str, Any] = {}
    for name, value in options.items():
        if name not in OPTIONS:
            refuse(f"the option {name!r} cannot be kept; known are {', '.join(OPTIONS)}")
        if value is None:
            continue
        wanted = OPTIONS[name]
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            kinds = wanted if isinstance(wanted, tuple) else (wanted,)
            refuse(f"{name}={value!r} is not {' or '.join(kind.__name__ for kind in kinds)}")
        if isinstance(value, datetime) and value.tzinfo is None and django_settings.USE_TZ:
            refuse(f"{name}={value!r} has no time zone")
        # A year exceeds any real countdown, and every database can add it to a time.
        seconds: Any = value if name in {"countdown", "expires"} and not isinstance(value, datetime) else 0
        if not (math.isfinite(seconds) and 0 <= seconds <= 366 * 86400):
            refuse(f"{name}={value!r} is not between 0 seconds and a year")
        if name in REGISTRIES:
            try:
                REGISTRIES[name](str(value))
            except (SerializerNotInstalled, KeyError):
                refuse(f"the {name} {value!r} is not installed")
        if name not in {"countdown", "eta"}:  # both are stored in due_at
            kept[name] = clock.aware(value).isoformat() if isinstance(value, datetime) else _json(name, value)
    return kept


def _json(where: str, value: Any) -> Any:
    """Return the option's value as lists, dicts and scalars that survive JSON unchanged.

    Exception: PostgreSQL normalises the column, so a header of 1e16 arrives as an int.
    """
    match value:
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
        case str():
            if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
                refuse(f"{where} holds a NUL or half a surrogate pair, which not every database and serializer takes")
            return value
        case list() | tuple():
            return [_json(f"{where}[{index}]", item) for index, item in enumerate(value)]
        case Mapping():
            for key in value:
                if not isinstance(key, str):
                    refuse(f"{where} has the key {key!r}, and JSON has text keys only")
            return {_json(where, key): _json(f"{where}[{key!r}]", item) for key, item in value.items()}
    refuse(f"{where} is {value!r:.80}, a {type(value).__name__} and not plain JSON; pass text or a number instead")
