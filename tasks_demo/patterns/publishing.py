"""Check options, limits and arguments when a job is published, and add the header with the operation key."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from celery import current_app, signals
from kombu.exceptions import EncodeError

from tasks_demo.core.exceptions import ArgumentsNotJson, ContradictoryDeclaration, DeliveryError
from tasks_demo.patterns.declarations import check_types, nearest
from tasks_demo.patterns.operation_header import header

logger = logging.getLogger(__name__)
_reported: set[str] = set()
#: Options of a declaration. In a call they would have no effect.
DECLARED = frozenset({
    "operation", "books", "using", "max_attempts", "needs_ledger", "ledger", "acks_late", "reject_on_worker_lost",
    "retry_on_worker_lost", "autoretry_for", "acks_on_failure", "acks_on_timeout", "acks_on_failure_or_timeout",
    "max_retries", "rate_limit",
})  # fmt: skip
#: Options of a call.
OF_A_CALL = frozenset({
    "countdown", "eta", "expires", "queue", "exchange", "routing_key", "priority", "serializer", "compression",
    "headers", "time_limit", "soft_time_limit", "retry", "retry_policy", "link", "link_error", "shadow",
    "ignore_result", "task_id", "producer", "connection", "chain", "chord", "group_id", "reply_to",
})  # fmt: skip
#: Options of a call that contain signatures of continuations.
CONTINUATIONS = ("chain", "link", "link_error", "chord")
#: The kwargs in which Celery's canvas primitives keep their member signatures.
MEMBERS = {"chain": ("tasks",), "group": ("tasks",), "chord": ("header", "body")}


def prepared(task: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Return the arguments and options to publish, with the operation header. Raises what ``task.apply_async`` raises."""
    args, kwargs = arguments(task, args, kwargs, options)
    if task.operation is None:
        return args, kwargs, options
    headers = dict(options.get("headers") or {})
    return args, kwargs, {**options, "headers": headers | header(task, args, kwargs, headers)}


@contextmanager
def encodable(task: Any, options: Mapping[str, Any]) -> Iterator[None]:
    """Turn kombu's EncodeError into ArgumentsNotJson, which says what to pass instead."""
    try:
        yield
    except EncodeError as error:
        if isinstance(error, DeliveryError):
            raise
        serializer = options.get("serializer") or task.serializer
        raise ArgumentsNotJson(
            f"{task.name}: the serializer {serializer!r} does not support the arguments ({error}). Nothing was published. "
            "Pass text, numbers, dates, lists and dictionaries, and an id instead of an object."
        ) from error


def arguments(task: Any, args: Any, kwargs: Any, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the arguments as Celery publishes them, for any task. Raises TypeError for those that the body does not take."""
    if task.typing:
        if hasattr(task, "__header__"):  # Celery's own check and message; it has none for task classes
            task.__header__(*(args or ()), **(kwargs or {}))
        elif hasattr(task, "bound"):
            task.bound(args, kwargs)
    dump = getattr(task, "_dump_pydantic_arguments", None)  # since Celery 5.7
    if dump is not None and (options.get("serializer") or task.serializer) != "pickle":
        args, kwargs = dump(args or (), kwargs or {})
    return args, kwargs


@lru_cache(maxsize=256)  # comparing names anew would take a third of the time of each publication
def _meant(name: str) -> str | None:
    """Return the known option, of a call or of a declaration, of which this name seems to be a misspelling."""
    return nearest(name, OF_A_CALL | DECLARED, 0.85)


def check_options_of_call(task: Any, options: Mapping[str, Any]) -> None:
    """Raise ContradictoryDeclaration for options of the call or the task that break the promise or would have no effect."""
    task.check_requires({name: options.get(name, getattr(task, name, None)) for name in task.requires})
    check_limits(task, options)
    for name, value in options.items():
        if name in OF_A_CALL or name in (options.get("stamped_headers") or ()):
            if name in CONTINUATIONS and value:
                _check_continuations(task.app, value, name == "link_error")
            continue
        close = _meant(name)
        if close:
            raise ContradictoryDeclaration(
                f"{task.name}: the option {name}={value!r} has no effect when a job is published. Nothing was published. "
                + ("" if close == name else f"Did you mean {close!r}? ")
                + ("" if close in OF_A_CALL else "Write it where the task is declared.")
            )


def check_limits(task: Any, options: Mapping[str, Any]) -> None:
    """Raise ContradictoryDeclaration if the soft time limit (of the call, or else of the task) is not below the hard one."""
    given = {name: options[name] for name in ("time_limit", "soft_time_limit") if options.get(name) is not None}
    if given:
        of_the_task = {name: getattr(task, name, None) for name in ("time_limit", "soft_time_limit")}
        check_types(task.name, {**of_the_task, **given})


@signals.before_task_publish.connect(weak=False, dispatch_uid="tasks_demo.expires")
def _published(sender: Any = None, headers: Any = None, **_: Any) -> None:
    """Warn, once per task, about an ``expires`` that ``apply_async`` would refuse: ``send_task`` does not ask the task class."""
    if (headers or {}).get("expires") is None or sender in _reported:
        return
    requires = getattr(current_app.tasks.get(sender), "requires", None) or {}
    if "expires" in requires:
        _reported.add(sender)
        logger.warning(
            "%s is published with expires=%s, which breaks its promise: %s Leave expires out of send_task().",
            sender, headers["expires"], requires["expires"][1],
        )  # fmt: skip


def _check_continuations(app: Any, signatures: Any, as_errbacks: bool = False) -> None:
    """Check the options of continuations, too: workers publish a chain step by step, where refusing would be too late."""
    for each in _listed(signatures):
        if not isinstance(each, Mapping):
            continue
        options, inside = each.get("options") or {}, each.get("kwargs") or {}
        task: Any = app.tasks.get(each.get("task"))
        if hasattr(task, "requires"):
            task.check_requires({name: options[name] for name in task.requires if name in options})
            check_limits(task, options)
            if as_errbacks:
                _check_errback(task, each)
        elif each.get("subtask_type") in MEMBERS:
            later = [inside.get(name) for name in MEMBERS[each["subtask_type"]]]
            _check_continuations(app, [signature for found in later if found for signature in _listed(found)])
        for name in CONTINUATIONS:
            if options.get(name):
                _check_continuations(app, options[name], name == "link_error")


def _check_errback(task: Any, errback: Mapping[str, Any]) -> None:
    given = errback.get("args") or ()
    try:
        task.bound(given if errback.get("immutable") else ("the failed task's ID", *given), errback.get("kwargs") or {})
    except TypeError as error:
        raise ContradictoryDeclaration(
            f"As link_error, {error}. Nothing was published. An errback with a pattern is published as a job of its own, with "
            "the ID of the failed task as its first argument. Let it take that one, or pass arguments of your own with .si(...). "
            "Only a task without a pattern gets (request, exc, traceback)."
        ) from error


def _listed(signatures: Any) -> Any:
    return (signatures,) if isinstance(signatures, Mapping | str) else signatures
