"""Celery's request in the worker's main process, announcing the acknowledgement."""

from __future__ import annotations

import logging
from typing import Any

from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]
from billiard.exceptions import WorkerLostError
from celery.worker import state
from celery.worker.request import Request

from tasks_demo.core.lifecycle import Point, Subject, described, observers, reached
from tasks_demo.patterns.requeue import log_delivery
from tasks_demo.patterns.subjects import subject_of


class ObservedRequest(Request):
    """Announces ``acked`` when the acknowledgement has been sent.

    Celery's ``Request.acknowledge`` only puts it on the event loop's list of things to do (celery/worker/consumer/consumer.py
    ``call_soon_ack``), so the message itself is watched. On Redis it is one transaction that has been executed then; on
    RabbitMQ the broker may still not have read it.
    """

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(message, *args, **kwargs)
        #: What ended the pool process that ran it; empty: nothing has.
        self._lost = ""
        self._ack_message = message.ack
        message.ack = self._acknowledge_now

    def _acknowledge_now(self, multiple: bool = False) -> None:
        self.send_acknowledgement(multiple)
        if observers():
            reached(Point.ACKED, self._subject())

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """As Celery's, whose log names neither task nor ID when a pool process was killed."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, WorkerLostError | SystemExit | KeyboardInterrupt):
            self._lost = f"the pool process that ran it is gone ({described(error)})"
        super().on_failure(exc_info, send_failed_event, return_ok)

    def reject(self, requeue: bool = False) -> None:
        """As Celery's. Who rejected it in the pool process has said why; of a process that was killed only main can."""
        if requeue and self._lost:
            log_delivery(
                self.task, logging.WARNING, "process lost", "requeued: %s", self._lost, subject=self._subject()
            )
        super().reject(requeue)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """As Celery's. But where the task has its message requeued after a hard time limit (``acks_on_timeout=False``), that is
        no end: no FAILURE is stored and no errback called. The attempt stays counted, so the quarantine ends a loop."""
        task: Any = self.task
        if soft or not task.acks_late or task.acks_on_timeout or state.should_terminate:
            super().on_timeout(soft, timeout)
            return
        state.task_ready(self)
        why, subject = f"its hard time limit of {timeout:g} s was exceeded", self._subject()
        log_delivery(task, logging.WARNING, "hard time limit", "requeued: %s", why, subject=subject)
        reached(Point.DEFERRED, subject, why=why, requeued=True)
        self.reject(requeue=True)

    def _subject(self) -> Subject:
        # By the headers: in main's event loop nothing of the user's is run.
        return subject_of(self.task, (), {}, self.id, self.hostname, self.request_dict)

    def send_acknowledgement(self, multiple: bool) -> None:
        """Tell the broker, now."""
        self._ack_message(multiple=multiple)
