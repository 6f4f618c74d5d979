"""Store results: as JSON text for duplicates, and in Celery's result backend for callers.

A result that cannot be stored neither fails nor loses the job.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import states
from celery.backends.base import DisabledBackend
from kombu.exceptions import EncodeError
from kombu.utils import json

from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import InvalidSetting
from tasks_demo.core.lifecycle import described, job_fields
from tasks_demo.core.limited_log import limited_log

logger = logging.getLogger(__name__)


def as_text(task: Any, result: Any) -> str | None:
    """Return the result as JSON text; None, with a warning, if it is not JSON or larger than TASKS_DEMO_RESULT_MAX_BYTES.

    Never raises: the body has returned, and its completed marker must be stored.
    """
    try:
        text: str = json.dumps(result)
        size, most = len(text.encode("utf-8", "surrogatepass")), settings.RESULT_MAX_BYTES
        if size <= most:
            return text
        why = f"has {size} bytes of JSON, more than TASKS_DEMO_RESULT_MAX_BYTES ({most})"
    except Exception as error:  # noqa: BLE001  (encoding may call the user's code)
        why = (
            f"could not be measured: {error}"
            if isinstance(error, InvalidSetting)
            else f"is not JSON ({described(error)})"
        )
    logger.warning(
        "%s[%s]: the result, a %s, is not stored with its operation: it %s. The operation is completed; duplicates get None.",
        task.name, task.request.id, type(result).__name__, why, extra=job_fields(task_id=task.request.id),
    )  # fmt: skip
    return None


def from_text(text: str | None) -> Any:
    """Return the stored result; None if there is none or, with a warning, if it cannot be read. Never raises."""
    try:
        return None if text is None else json.loads(text)
    except Exception as error:  # noqa: BLE001  (the operation is completed, even without its result)
        logger.warning(
            "The stored result of a completed operation cannot be read; its duplicate gets None: %r",
            error,
            extra=job_fields(),
        )
        return None


class LenientBackend:
    """A result backend that tolerates failures to store SUCCESS and STARTED.

    Celery marks a job as failed if its result cannot be stored, although its body has returned, and drops a job if STARTED cannot
    be stored, although its body has not run (celery/app/trace.py). A result that cannot be encoded is stored as None; for a
    member of a chord Celery's EncodeError is raised, because the chord's body would receive that None.

    Does **not** guarantee a result to callers that wait for one while the backend is down.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    @property
    def tells_others(self) -> bool:
        """Whether a process can read the state that another one stored. (Without a backend, reading raises AttributeError.)"""
        return bool(getattr(self._backend, "persistent", False)) and not isinstance(self._backend, DisabledBackend)

    def mark_as_done(
        self, task_id: str, result: Any, request: Any = None, store_result: bool = True, state: str = states.SUCCESS
    ) -> Any:
        """Store the result and report to the chord. Raises nothing but a chord member's EncodeError."""
        try:
            return self._backend.mark_as_done(task_id, result, request, store_result, state)
        except EncodeError as error:
            if request is not None and request.chord:
                raise
            limited_log(
                logger, logging.ERROR, ("result", type(error).__name__),
                "[%s]: the job is done, but its result, a %s, cannot be encoded for the result backend: %s. Its state is %s, and "
                "callers get None as the result. Return a value that result_serializer supports, or set ignore_result=True.",
                task_id, type(result).__name__, described(error), state, extra=job_fields(task_id=task_id),
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001  (no failure of the backend may fail a job whose body has returned)
            _not_stored(task_id, state, error)
            return None
        return self.mark_as_done(task_id, None, request, store_result, state)

    def store_result(self, task_id: str, result: Any, state: str, **options: Any) -> Any:
        """Store a state. A failure to store STARTED, which precedes the body, is logged."""
        try:
            return self._backend.store_result(task_id, result, state, **options)
        except Exception as error:
            if state != states.STARTED:
                raise
            _not_stored(task_id, state, error)


def _not_stored(task_id: str, state: str, error: Exception) -> None:
    limited_log(
        logger, logging.ERROR, ("result backend", state, type(error).__name__),
        "[%s]: the result backend did not store %s: %s. The job is not affected, but callers do not see this state.",
        task_id, state, described(error), extra=job_fields(task_id=task_id),
    )  # fmt: skip
