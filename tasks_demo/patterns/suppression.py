"""What becomes of a delivery whose operation another one has taken: its body is not run, and no outcome is changed.

- Its task ID has a final outcome in Celery's result backend: nothing is stored and nothing that follows is started (Suppressed).
- It has none, and the operation is completed: the stored result is its outcome, and what follows is started, because the first
  delivery may have been killed before it did. A copy of the very task that completed it is requeued once before that: the first
  may be about to store its outcome.

What is **not** guaranteed: that what follows starts once where there is no evidence (results ignored, no result backend, ``rpc://``)
or where the first delivery was killed between starting it and storing SUCCESS. It then starts again, under the same task IDs.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from celery import states

from tasks_demo.core.lifecycle import Point, reached
from tasks_demo.patterns.requeue import Suppressed, defer, log_delivery

#: Header of a copy that has waited once for the outcome of the first.
WAITED = "tasks_demo_waited"


def outcome(task: Any) -> str | None:
    """The state of this task ID in the result backend; None: it cannot be known. Raises what the backend raises."""
    backend = task.backend
    ignored = task.request.ignore_result or task.ignore_result
    if task.request.is_eager or ignored or not getattr(backend, "persistent", False):
        return None
    try:
        return str(backend.get_task_meta(task.request.id, cache=False)["status"])
    except NotImplementedError:  # results are disabled
        return None


def known_outcome(task: Any) -> str | None:
    """As ``outcome``, but None where the backend does not answer."""
    with contextlib.suppress(Exception):
        return outcome(task)
    return None


def suppress(task: Any, result: Any, first: str) -> Any:
    """The outcome of a copy of a completed operation: ``result``. ``first`` is the task ID that completed it.

    Raises Suppressed if this task ID has an outcome already, and Unfinished (requeued) if it may be about to get one.
    """
    state = outcome(task)
    if state in states.READY_STATES:
        raise suppressed(task, f"its operation is completed, and its outcome ({state}) stands")
    if state is not None and first == task.request.id and WAITED not in (task.request.headers or {}):
        defer(task, "completed, its outcome is not stored yet", headers={WAITED: True}, level=logging.INFO)
    suppressed(task, "its operation is completed: the stored result is its outcome")
    return result


def suppressed(task: Any, why: str) -> Suppressed:
    """Announce it and say so in the log; what to raise if nothing is to be stored."""
    log_delivery(task, logging.INFO, "suppressed", "the body was not run: %s", why)
    reached(Point.SUPPRESSED)
    return Suppressed(why)
