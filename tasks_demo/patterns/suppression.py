"""Suppress a delivery whose operation was completed by another delivery: the body is not run, and no stored outcome is changed.

- If its task ID has a final outcome in Celery's result backend, nothing is stored and no continuation is started (Suppressed).
- If it has none, the operation's stored result becomes its outcome, and continuations are started, because the first delivery may
  have been killed before it started them. A copy with the task ID that completed the operation is deferred once before that,
  because the first delivery may be about to store its outcome.

Does **not** guarantee that continuations start only once where there is no evidence (results ignored, no result backend,
``rpc://``), or where the first delivery was killed between starting them and storing SUCCESS. They then start again, under the
same task IDs.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from celery import states

from tasks_demo.core.lifecycle import Point, reached
from tasks_demo.patterns.requeue import Suppressed, defer, log_delivery

#: Header of a copy that was deferred once to wait for the outcome of the first.
WAITED = "tasks_demo_waited"


def outcome(task: Any) -> str | None:
    """Return the state of this task ID in the result backend; None if unknown. Raises what the backend raises."""
    backend = task.backend
    ignored = task.request.ignore_result or task.ignore_result
    if task.request.is_eager or ignored or not backend.tells_others:
        return None
    return str(backend.get_task_meta(task.request.id, cache=False)["status"])


def known_outcome(task: Any) -> str | None:
    """As ``outcome``, but None if the backend does not answer."""
    with contextlib.suppress(Exception):
        return outcome(task)
    return None


def suppress(task: Any, result: Any, first: str) -> Any:
    """Return ``result`` as the outcome of a copy of a completed operation. ``first``: the task ID that completed it.

    Raises Suppressed if this task ID already has an outcome, and Unfinished (deferred) if one may be about to be stored.
    """
    state = outcome(task)
    if state in states.READY_STATES:
        why = f"its operation is completed, and its outcome ({state}) is unchanged"
        announce_suppressed(task, why)
        raise Suppressed(why)
    if state is not None and first == task.request.id and WAITED not in (task.request.headers or {}):
        defer(task, "completed, its outcome is not stored yet", headers={WAITED: True}, level=logging.INFO)
    announce_suppressed(task, "its operation is completed: the stored result is its outcome")
    return result


def announce_suppressed(task: Any, why: str) -> None:
    """Log the suppression and tell the observers. If no result is to be stored, the caller then raises Suppressed."""
    log_delivery(task, logging.INFO, "suppressed", "the body was not run: %s", why)
    reached(Point.SUPPRESSED)
