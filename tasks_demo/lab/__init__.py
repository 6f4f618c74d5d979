"""The lab: experiments that kill real workers and judge the recorded history.

What is exported is the verdict: pure functions of a history, without Django, Celery or Redis.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks_demo.lab.verdict.checker import CellResult, check
    from tasks_demo.lab.verdict.history import HistoryError, HistoryEvent, read, write

__all__ = ["CellResult", "HistoryError", "HistoryEvent", "check", "read", "write"]


if not TYPE_CHECKING:  # else a misspelt name of this module would pass as Any

    def __getattr__(name: str) -> Any:
        # Imported when asked for: without the extra, the app's own message names what is missing.
        if name not in __all__:
            raise AttributeError(name)
        from tasks_demo.lab.verdict import checker, history

        return getattr(checker if name in {"CellResult", "check"} else history, name)
