"""Messages that no publisher of the lab sends, for the fault ``hostile``. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

#: Bytes of the largest, and levels of the deepest.
HUGE, DEEP = 50 * 1024 * 1024, 10_000
#: In the order in which the victims of a cell get them.
KINDS = (
    "same-id", "non-json", "list", "object", "no-headers", "content-type", "deep", "unknown-task", "arity", "huge",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HostileMessage:
    """One message. ``unreadable``: its body is all that is put into the queue, without what kombu adds to a message."""

    kind: str
    body: bytes
    task_id: str = ""
    headers: dict[str, Any] = field(default_factory=dict)
    content_type: str = "application/json"
    unreadable: bool = False


def hostile_message(kind: str, task: str, task_id: str, kwargs: dict[str, Any]) -> HostileMessage:
    """Return a message of this kind.

    ``task_id`` and ``kwargs``: its own, but for ``same-id`` those of a job that is done.
    """
    headers = {"lang": "py", "task": task, "id": task_id, "root_id": task_id, "parent_id": None, "group": None}
    usual = _body([], kwargs)
    match kind:
        case "non-json":
            return HostileMessage(kind, b"\x00\xff this is not JSON", unreadable=True)
        case "list":
            return HostileMessage(kind, b"[]", unreadable=True)
        case "object":
            return HostileMessage(kind, b"{}", unreadable=True)
        case "no-headers":
            return HostileMessage(kind, usual)
        case "content-type":
            return HostileMessage(kind, b"\x80\x04N.", task_id, headers, content_type="application/x-python-serialize")
        case "deep":
            return HostileMessage(kind, b"[" * DEEP + b"]" * DEEP, task_id, headers)
        case "huge":
            return HostileMessage(kind, _body([], {**kwargs, "nobody_knows_this": "x" * HUGE}), task_id, headers)
        case "unknown-task":
            return HostileMessage(kind, usual, task_id, {**headers, "task": "tasks_demo.nobody_knows_this"})
        case "arity":
            return HostileMessage(kind, _body(list(range(20)), {}), task_id, headers)
        case "same-id":
            return HostileMessage(kind, _body([], {**kwargs, "amount": kwargs["amount"] + 1}), task_id, headers)
    raise ValueError(f"unknown kind of hostile message: {kind}")


def _body(args: list[Any], kwargs: dict[str, Any]) -> bytes:
    return json.dumps([args, kwargs, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]).encode()
