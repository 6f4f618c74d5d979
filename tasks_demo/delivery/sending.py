"""What a publisher adds to a message, and what a worker reads from it: the operation key, computed once.

The header holds the key and the beginning of the digest of the arguments that it was computed for. Retries and requeued copies
carry it on, so that a key with the day in it does not change at midnight; a copy with other arguments, or one whose headers
somebody has given to another job, gets a key of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks_demo.exceptions import InvalidOperationKey
from tasks_demo.locks.keys import validate_operation

#: ``<beginning of the digest>:<operation key>``; without a key it is that of the task ID.
HEADER = "tasks_demo_operation"
#: Hexadecimal digits of the digest.
DIGITS = 16
#: Where a request keeps what was found out about it.
_CACHE = "_tasks_demo_operation"


def prepared(task: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """What is published for this call: its arguments and options, with the header. Raises as ``task.apply_async`` says."""
    if task.typing:
        if hasattr(task, "__header__"):  # Celery's own check and its words; it has none for task classes
            task.__header__(*(args or ()), **(kwargs or {}))
        else:
            task.bound(args, kwargs)
    if task._dump_pydantic_arguments is not None and options.get("serializer", task.serializer) != "pickle":
        args, kwargs = task._dump_pydantic_arguments(args or (), kwargs or {})
    if task.operation is None:
        return args, kwargs, options
    headers = dict(options.get("headers") or {})
    return args, kwargs, {**options, "headers": headers | header(task, args, kwargs, headers)}


def header(task: Any, args: Any, kwargs: Any, headers: Mapping[str, Any]) -> dict[str, str]:
    """The header for a message with these arguments; the one in ``headers`` if it was computed for them."""
    beginning = task.digest(args, kwargs)[:DIGITS]
    told = told_operation(headers)
    if told is None or not headers[HEADER].startswith(beginning):
        told = task.operation_key(args, kwargs, "")
    return {HEADER: f"{beginning}:{told}"}


def told_operation(headers: Mapping[str, Any] | None) -> str | None:
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


def once_a_delivery(task: Any, args: Any, kwargs: Any) -> str:
    """The operation key of the delivery that runs here: the one that was sent along for these arguments, or else computed."""
    request = task.request
    call = (list(args), dict(kwargs))
    known = getattr(request, _CACHE, None)
    if known is not None and known[0] == call:
        return str(known[1])
    told = told_operation(request.headers)
    if told is None or not request.headers[HEADER].startswith(task.digest(args, kwargs)[:DIGITS]):
        told = task.operation_key(args, kwargs, request.id)
    key = str(told or request.id)
    setattr(request, _CACHE, (call, key))
    return key
