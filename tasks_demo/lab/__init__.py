"""The lab: experiments that kill real workers and judge the recorded history.

What is exported is the verdict: pure functions of a history, without Django, Celery or Redis.
"""

from tasks_demo.lab.verdict.checker import CellResult, check
from tasks_demo.lab.verdict.history import HistoryError, HistoryEvent, read, write

__all__ = ["CellResult", "HistoryError", "HistoryEvent", "check", "read", "write"]
