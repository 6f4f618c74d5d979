"""The message header with the operation key: computed once by the publisher, kept by every copy.

It contains the key and a prefix of the digest of the arguments for which it was computed. Retries and deferred copies keep it, so
that a key that contains the date does not change at midnight. For other arguments, for example when another job's headers were
passed on, the key is computed anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks_demo.core.exceptions import InvalidOperationKey
from tasks_demo.leases.keys import validate_operation

#: ``<digest prefix>:<operation key>``; an empty key stands for the task ID.
HEADER = "tasks_demo_operation"
#: Length of the digest prefix, in hexadecimal digits.
DIGITS = 16
#: Attribute of a request that caches the key of its delivery.
_CACHE = "_tasks_demo_operation"


def header(task: Any, args: Any, kwargs: Any, headers: Mapping[str, Any]) -> dict[str, str]:
    """Return the header for these arguments: the one in ``headers`` if it was computed for them, else a new one."""
    beginning = task.digest(args, kwargs)[:DIGITS]
    sent = sent_operation(headers)
    if sent is None or not headers[HEADER].startswith(beginning):
        sent = task.operation_key(args, kwargs, "")
    return {HEADER: f"{beginning}:{sent}"}


def sent_operation(headers: Mapping[str, Any] | None) -> str | None:
    """Return the key that the publisher sent, "" for the task ID, or None if no valid key was sent.

    Does not check for which arguments it was computed.
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
    """Return the operation key of the running delivery: the one sent for these arguments, or else computed, once."""
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
