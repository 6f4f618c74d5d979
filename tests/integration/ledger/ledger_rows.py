"""Short task histories, written to the real ledger, for tests of screens."""

from __future__ import annotations

import itertools
import time
from typing import Any

from tasks_demo.ledger.events import EventData
from tasks_demo.ledger.store import store

_numbers = itertools.count()
START = time.time() - 60


def event(kind: str, after_ms: float = 0.0, **fields: Any) -> EventData:
    """One event ``after_ms`` after the start."""
    return EventData(at=START + after_ms / 1000, kind=kind, source=f"test:{time.time_ns()}:{next(_numbers)}", **fields)


def life(task_id: str, *kinds: str, pattern: str = "acks_late", operation: str = "", **fields: Any) -> list[EventData]:
    """The events of one task, 10 ms apart. ``received`` and ``acked`` come from main pid 100, the others from pool pid 101."""
    same = {"task_id": task_id, "operation": operation or task_id, "pattern": pattern, "books": "bank", **fields}
    rows = []
    for number, kind in enumerate(kinds):
        who: dict[str, Any] = {"worker": "w1@test", "pid": 100 if kind in {"received", "acked"} else 101}
        if kind in {"published", "effect", "settled", "fault"}:
            who = {}
        rows.append(event(kind, number * 10.0, **{**same, **who}))
    return rows


WHOLE = ("published", "received", "started", "effect_begun", "effect", "effect_done", "returned", "acked")


def ok(task_id: str, **fields: Any) -> list[EventData]:
    """A healthy task."""
    return life(task_id, *WHOLE, **fields)


def lost(task_id: str, **fields: Any) -> list[EventData]:
    """Published and started, never charged; nothing is pending."""
    return life(task_id, "published", "received", "started", "settled", **fields)


def killed(task_id: str, *, pattern: str = "acks_late", run: str = "") -> list[EventData]:
    """Killed after its effect with main 100, redelivered to another worker, charged again."""
    same: dict[str, Any] = {"task_id": task_id, "operation": task_id, "pattern": pattern, "books": "bank", "run": run}
    first: dict[str, Any] = {**same, "worker": "w1@test"}
    second: dict[str, Any] = {**same, "worker": "w2@test"}
    kill = {
        "what": "kill-main", "victim": "main", "point": "effect_done", "pid": 100, "main_pid": 100, "child_pid": 101,
        "landed": True, "why": "", "died": "SIGKILL",
    }  # fmt: skip
    return [
        event("published", 0, **same),
        event("received", 5, pid=100, **first, detail={"redelivered": False}),
        event("started", 10, pid=101, **first),
        event("effect_begun", 11, pid=101, **first),
        event("effect", 12, **same, detail={"source": "bank:1", "amount": 1999, "account": "customer-1"}),
        event("effect_done", 15, pid=101, **first),
        event("fault", 20, **same, pid=100, detail=kill),
        event("received", 3020, pid=200, **second, detail={"redelivered": True}),
        event("started", 3025, pid=201, **second),
        event("effect_begun", 3026, pid=201, **second),
        event("effect", 3027, **same, detail={"source": "bank:2", "amount": 1999, "account": "customer-1"}),
        event("effect_done", 3030, pid=201, **second),
        event("returned", 3031, pid=201, **second),
        event("acked", 3032, pid=200, **second),
        event("settled", 4000, **same),
    ]


def append(*lives: list[EventData]) -> None:
    """Commit these histories."""
    store.append([row for rows in lives for row in rows])
