"""The message header with the operation key: computed once by the publisher, carried along by every copy.

It holds the key and the beginning of the digest of the arguments that it was computed for. Retries and deferred copies keep it,
so that a key with the date in it does not change at midnight. A copy with other arguments, or a message to which another job's
headers were given, gets a key of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks_demo.core.exceptions import InvalidOperationKey
from tasks_demo.leases.keys import validate_operation

#: ``<beginning of the digest>:<operation key>``; an empty key stands for the task ID.
HEADER = "tasks_demo_operation"
#: Hexadecimal digits of the digest.
DIGITS = 16
#: Attribute of a request that caches the key of its delivery.
_CACHE = "_tasks_demo_operation"


def header(task: Any, args: Any, kwargs: Any, headers: Mapping[str, Any]) -> dict[str, str]:
    """The header for a message with these arguments; the one in ``headers`` if it was computed for them."""
    beginning = task.digest(args, kwargs)[:DIGITS]
    sent = sent_operation(headers)
    if sent is None or not headers[HEADER].startswith(beginning):
        sent = task.operation_key(args, kwargs, "")
    return {HEADER: f"{beginning}:{sent}"}


def sent_operation(headers: Mapping[str, Any] | None) -> str | None:
    """The key that the publisher sent, "" for the task ID; None: nothing valid was sent.

    Does not check which arguments it was computed for.
    """
    sent = (headers or {}).get(HEADER)
    if not isinstance(sent, str) or sent[DIGITS : DIGITS + 1] != ":":
        return None
    key = sent[DIGITS + 1 :]
    try:
        return validate_operation(key) if key else key
    except InvalidOperationKey:
        return None


def operation_of_delivery(task: Any, args: Any, kwargs: Any) -> str:
    """The operation key of the delivery that runs here: the one sent for these arguments, or else computed, once."""
    request = task.request
    call = (list(args), dict(kwargs))
    known = getattr(request, _CACHE, None)
    if known is not None and known[0] == call:
        return str(known[1])
    sent = sent_operation(request.headers)
    if sent is None or not request.headers[HEADER].startswith(task.digest(args, kwargs)[:DIGITS]):
        sent = task.operation_key(args, kwargs, request.id)
    key = str(sent or request.id)
    setattr(request, _CACHE, (call, key))
    return key
