"""Events before they are stored: what a process reports to the ledger. No database access.

``ledger.tallies`` counts them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

#: Kinds that are not points of ``core.lifecycle``.
EFFECT = "effect"  # one entry in a set of books
FAULT = "fault"  # a fault that the lab injected, or tried to
SETTLED = "settled"  # the books were read after the task had ended
GAP = "gap"  # events that a process wrote late or lost
WORKER = "worker"  # a worker of the lab started or stopped
QUIESCENT = "quiescent"  # the end of an experiment cell, with the evidence that nothing is running

#: Kinds reported by the worker, which has the task's class. A publisher may know only the task's name.
KNOWS_ITS_TASK = frozenset({"received", "started", "suppressed", "deferred", "quarantined", "failed"})

#: Maximum length, in characters, of columns whose text comes from outside.
LONGEST: dict[str, int] = {"task_id": 255, "operation": 255, "worker": 255, "task": 255}
#: If all these texts together have no more characters, each of them fits.
SHORT = min(LONGEST.values())


@dataclass(slots=True)
class EventData:
    """One event to append. Not frozen, because that doubles the time to make one, and every job makes five; nobody changes it.

    ``at``: seconds since the epoch. ``source``: unique; an event whose source is already stored is not stored again.
    """

    at: float
    kind: str
    source: str
    task_id: str = ""
    operation: str = ""
    pattern: str = ""
    worker: str = ""
    pid: int | None = None
    run: str = ""
    books: str = ""
    task: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Task IDs come from publishers. An ID that a database cannot store must not make the whole batch fail.
        together = f"{self.task_id}{self.operation}{self.worker}{self.task}"
        if len(together) <= SHORT and together.isprintable():
            return
        for name, most in LONGEST.items():
            text = getattr(self, name)
            if len(text) > most or not text.isprintable():
                setattr(self, name, storable(text)[:most])

    def detail_as_json(self) -> str:
        """Return the detail as JSON that every database accepts. Values that JSON cannot represent become text. Never raises."""
        if not self.detail:
            return "{}"
        try:
            text = json.dumps(self.detail, default=str, allow_nan=False)
            # json.dumps accepts NUL and lone surrogates; PostgreSQL does not.
            if "\\u0000" not in text and "\\ud" not in text:
                return text
        except Exception:  # noqa: BLE001, S110  (the values come from a task's body: NaN, a __str__ that raises, ...)
            pass
        try:
            return json.dumps(_storable(self.detail))
        except Exception as error:  # noqa: BLE001  (for example a dict that contains itself: store the event without its detail)
            return json.dumps({"not_written": type(error).__name__})


def microseconds(at: float) -> int:
    """Convert seconds to whole microseconds, rounded as ``datetime.fromtimestamp`` does, so that they match the stored column."""
    whole = int(at)
    return whole * 1_000_000 + round((at - whole) * 1e6)


def storable(text: str) -> str:
    """Escape NUL and lone surrogates in the text: databases accept neither."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")


def _storable(value: Any) -> Any:
    match value:
        case str():
            return storable(value)
        case dict():
            return {storable(str(name)): _storable(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_storable(inner) for inner in value]
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
    return storable(str(value))
