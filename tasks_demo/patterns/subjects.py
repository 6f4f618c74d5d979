"""The subject (task, operation, pattern) of the points that are announced for a message."""

from __future__ import annotations

import logging
from typing import Any

from tasks_demo.core.lifecycle import Subject, described, job_fields
from tasks_demo.patterns.base import PatternTask
from tasks_demo.patterns.operation_header import sent_operation

logger = logging.getLogger(__name__)


def subject_of(task: Any, args: Any, kwargs: Any, task_id: str, worker: str = "", headers: Any = None) -> Subject:
    """Return the subject of any task, with a pattern or without. Never raises: if the operation key cannot be computed, it is the
    task ID.

    With the ``headers`` of the message it needs no arguments and runs no user code, so the main process's event loop can call it.
    """
    if not isinstance(task, PatternTask):
        name = task if isinstance(task, str) else getattr(task, "name", None) or ""
        return Subject(task_id, task_id, "", worker, task=name, ledger=_share(task))
    if headers is None:
        try:
            return task.subject(args or (), kwargs or {}, task_id, worker)
        except Exception as error:  # noqa: BLE001  (the operation function is user code)
            log_no_key(task, task_id, error)
    return task.subject_named(sent_operation(headers) or task_id, task_id, worker)


def log_no_key(task: Any, task_id: str, error: Exception) -> None:
    """Log that the operation key of a job could not be computed; its events are recorded under the task ID."""
    logger.warning(
        "No operation key for %s[%s]: %s. Its events are recorded under the task ID.",
        task.name, task_id, described(error), extra=job_fields(task_id=task_id),
    )  # fmt: skip


def _share(task: Any) -> float:
    """Return the attribute ``ledger`` of a task without a pattern, if it is a share; else 1."""
    given = getattr(task, "ledger", True)
    return float(given) if isinstance(given, bool | int | float) and 0 <= given <= 1 else 1.0
