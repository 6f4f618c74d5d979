"""The lab: experiments that kill real workers and judge the recorded history.

What can be used from elsewhere is the verdict: pure functions of a history, without Django, Celery or Redis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks_demo.lab.verdict.checkers import CellResult, check
    from tasks_demo.lab.verdict.history import HistoryError, HistoryEvent, read, write

__all__ = ["CellResult", "HistoryError", "HistoryEvent", "check", "read", "write"]


def __getattr__(name: str) -> Any:
    # When asked for: `python -m tasks_demo.lab.verdict.checkers` imports this package first.
    if name in __all__:
        from tasks_demo.lab.verdict import checkers, history

        return getattr(checkers if hasattr(checkers, name) else history, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
