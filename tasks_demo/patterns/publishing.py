"""What a publisher adds to a message, and what a worker reads from it: the operation key, computed once.

The header holds the key and the beginning of the digest of the arguments that it was computed for. Retries and requeued copies
carry it on, so that a key with the day in it does not change at midnight; a copy with other arguments, or one whose headers
somebody has given to another job, gets a key of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from celery import current_app, signals

from tasks_demo.core.exceptions import ContradictoryDeclaration, InvalidOperationKey
from tasks_demo.leases.keys import validate_operation
from tasks_demo.patterns.declarations import check_types, nearest

logger = logging.getLogger(__name__)
_reported: set[str] = set()
#: ``<beginning of the digest>:<operation key>``; without a key it is that of the task ID.
HEADER = "tasks_demo_operation"
#: Hexadecimal digits of the digest.
DIGITS = 16
#: Where a request keeps what was found out about it.
_CACHE = "_tasks_demo_operation"


def prepared(task: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """What is published for this call: its arguments and options, with the header. Raises as ``task.apply_async`` says."""
    args, kwargs = arguments(task, args, kwargs, options)
    if task.operation is None:
        return args, kwargs, options
    headers = dict(options.get("headers") or {})
    return args, kwargs, {**options, "headers": headers | header(task, args, kwargs, headers)}


def arguments(task: Any, args: Any, kwargs: Any, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """The arguments as Celery publishes them, of a task with a pattern or without. Raises TypeError if the body takes others."""
    if task.typing:
        if hasattr(task, "__header__"):  # Celery's own check and its words; it has none for task classes
            task.__header__(*(args or ()), **(kwargs or {}))
        elif hasattr(task, "bound"):
            task.bound(args, kwargs)
    if task._dump_pydantic_arguments is not None and (options.get("serializer") or task.serializer) != "pickle":
        args, kwargs = task._dump_pydantic_arguments(args or (), kwargs or {})
    return args, kwargs


#: Options of a declaration; given with a call they would have no effect.
DECLARED = frozenset({
    "operation", "books", "using", "max_attempts", "needs_ledger", "ledger", "acks_late", "reject_on_worker_lost",
    "retry_on_worker_lost", "autoretry_for", "acks_on_failure", "acks_on_timeout", "acks_on_failure_or_timeout",
    "max_retries", "rate_limit",
})  # fmt: skip
#: Options of a call that a misspelt one may have meant.
OF_A_CALL = frozenset({
    "countdown", "eta", "expires", "queue", "exchange", "routing_key", "priority", "serializer", "compression",
    "headers", "time_limit", "soft_time_limit", "retry", "retry_policy", "link", "link_error", "shadow",
    "ignore_result", "task_id", "producer", "connection", "chain", "chord", "group_id", "reply_to",
})  # fmt: skip


#: Of them, those that hold signatures of what follows.
LATER = ("chain", "link", "link_error", "chord")
#: Where Celery's canvas keeps the signatures that it is made of.
WITHIN = {"chain": ("tasks",), "group": ("tasks",), "chord": ("header", "body")}


@lru_cache(maxsize=256)  # a comparison of texts with every publication would cost a third of it
def _meant(name: str) -> str | None:
    """The option of a call that this unknown one seems to be a misspelling of."""
    return nearest(name, OF_A_CALL, 0.85)


def check_options_of_call(task: Any, options: Mapping[str, Any]) -> None:
    """Raise ContradictoryDeclaration for options, of this call or set on the task since, that break the promise or do nothing."""
    task.check_requires({name: options.get(name, getattr(task, name, None)) for name in task.requires})
    check_limits(task, options)
    for name, value in options.items():
        if name in OF_A_CALL or name in (options.get("stamped_headers") or ()):
            if name in LATER and value:
                _check_later(task.app, value)
            continue
        close = _meant(name)
        if name in DECLARED or close:
            raise ContradictoryDeclaration(
                f"{task.name}: the option {name}={value!r} has no effect when a job is published. Nothing was published. "
                + (f"Did you mean {close!r}?" if close else "Write it where the task is declared.")
            )


def check_limits(task: Any, options: Mapping[str, Any]) -> None:
    """Raise ContradictoryDeclaration where a limit of this call and one of the task, or both of the call, do not go together."""
    given = {name: options[name] for name in ("time_limit", "soft_time_limit") if options.get(name) is not None}
    if given:
        of_the_task = {name: getattr(task, name, None) for name in ("time_limit", "soft_time_limit")}
        check_types(task.name, {**of_the_task, **given})


@signals.before_task_publish.connect(weak=False, dispatch_uid="tasks_demo.expires")
def _published(sender: Any = None, headers: Any = None, **_: Any) -> None:
    """``send_task`` asks no task class: said here, once a task, what ``apply_async`` refuses."""
    if (headers or {}).get("expires") is None or sender in _reported:
        return
    requires = getattr(current_app.tasks.get(sender), "requires", None) or {}
    if "expires" in requires:
        _reported.add(sender)
        logger.warning(
            "%s is published with expires=%s, which breaks its promise: %s Leave expires out of send_task().",
            sender, headers["expires"], requires["expires"][1],
        )  # fmt: skip


def _check_later(app: Any, signatures: Any) -> None:
    """The same for what follows the job: a chain is published step by step, by workers, where a refusal is too late."""
    for each in _listed(signatures):
        if not isinstance(each, Mapping):
            continue
        options, inside = each.get("options") or {}, each.get("kwargs") or {}
        task: Any = app.tasks.get(each.get("task"))
        if hasattr(task, "requires"):
            task.check_requires({name: options[name] for name in task.requires if name in options})
            check_limits(task, options)
        elif each.get("subtask_type") in WITHIN:
            later = [inside.get(name) for name in WITHIN[each["subtask_type"]]]
            _check_later(app, [signature for found in later if found for signature in _listed(found)])
        _check_later(app, [signature for name in LATER if options.get(name) for signature in _listed(options[name])])


def _listed(signatures: Any) -> Any:
    return (signatures,) if isinstance(signatures, Mapping | str) else signatures


def header(task: Any, args: Any, kwargs: Any, headers: Mapping[str, Any]) -> dict[str, str]:
    """The header for a message with these arguments; the one in ``headers`` if it was computed for them."""
    beginning = task.digest(args, kwargs)[:DIGITS]
    told = sent_operation(headers)
    if told is None or not headers[HEADER].startswith(beginning):
        told = task.operation_key(args, kwargs, "")
    return {HEADER: f"{beginning}:{told}"}


def sent_operation(headers: Mapping[str, Any] | None) -> str | None:
    """The key that the publisher has sent along, "" for that of the task ID; None: nothing that could be one was sent.

    Whose arguments it was computed for is not asked here.
    """
    told = (headers or {}).get(HEADER)
    if not isinstance(told, str) or told[DIGITS : DIGITS + 1] != ":":
        return None
    key = told[DIGITS + 1 :]
    try:
        return validate_operation(key) if key else key
    except InvalidOperationKey:
        return None


def operation_of_delivery(task: Any, args: Any, kwargs: Any) -> str:
    """The operation key of the delivery that runs here: the one that was sent along for these arguments, or else computed."""
    request = task.request
    call = (list(args), dict(kwargs))
    known = getattr(request, _CACHE, None)
    if known is not None and known[0] == call:
        return str(known[1])
    told = sent_operation(request.headers)
    if told is None or not request.headers[HEADER].startswith(task.digest(args, kwargs)[:DIGITS]):
        told = task.operation_key(args, kwargs, request.id)
    key = str(told or request.id)
    setattr(request, _CACHE, (call, key))
    return key
