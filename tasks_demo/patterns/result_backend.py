"""Celery's result backend as the patterns use it: a result that cannot be stored neither fails nor loses the job."""

from __future__ import annotations

import logging
from typing import Any

from celery import states
from kombu.exceptions import EncodeError

from tasks_demo.core.lifecycle import described, job_fields
from tasks_demo.core.limited_log import limited_log

logger = logging.getLogger(__name__)


class LenientBackend:
    """A result backend that tolerates failures to store SUCCESS and STARTED.

    Celery marks a job as failed if its result cannot be stored, although it is done, and drops one whose STARTED cannot be
    stored, although it has not started (celery/app/trace.py). A result that cannot be encoded is stored as None; for a member
    of a chord Celery's EncodeError is raised, because the chord's body would be given that None.

    Does **not** guarantee an answer to callers that wait for the result while the backend is down.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

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
                "whoever asks for the result gets None. Return what result_serializer carries, or set ignore_result=True.",
                task_id, type(result).__name__, described(error), state, extra=job_fields(task_id=task_id),
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001  (whatever it is, the body has returned)
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
        "[%s]: the result backend did not store %s: %s. The job goes on; whoever waits for its result gets none.",
        task_id, state, described(error), extra=job_fields(task_id=task_id),
    )  # fmt: skip
