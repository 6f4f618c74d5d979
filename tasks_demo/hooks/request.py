"""Celery's request class in the worker's main process, extended to announce acknowledgements and log lost pool processes."""

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


class AnnouncesAcks:
    """Before a class of requests: announces ``acked`` when the acknowledgement has been sent, and changes nothing else.

    Celery's ``Request.acknowledge`` only schedules it on the event loop (celery/worker/consumer/consumer.py ``call_soon_ack``),
    so ``message.ack`` is wrapped. On Redis the acknowledging transaction has been executed by then. Does **not** guarantee, on
    RabbitMQ, that the broker has read the acknowledgement.
    """

    task: Any
    id: str
    hostname: str
    request_dict: Any

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(message, *args, **kwargs)  # type: ignore[call-arg]
        self._ack_message = message.ack
        message.ack = self._acknowledge_now

    def _acknowledge_now(self, multiple: bool = False) -> None:
        self.send_acknowledgement(multiple)
        if observers():
            reached(Point.ACKED, self._subject())

    def _subject(self) -> Subject:
        # From the headers: user code must not run in the main process's event loop.
        return subject_of(self.task, (), {}, self.id, self.hostname, self.request_dict)

    def send_acknowledgement(self, multiple: bool) -> None:
        """Send the acknowledgement now."""
        self._ack_message(multiple=multiple)


class ObservedRequest(AnnouncesAcks, Request):
    """The request of a task with a pattern."""

    #: What ended the pool process that ran it; empty: it has not ended.
    _lost = ""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """As Celery's, but remembers a killed pool process for the log: Celery's log line names neither task nor task ID."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, WorkerLostError | SystemExit | KeyboardInterrupt):
            self._lost = f"the pool process that ran it has ended ({described(error)})"
        super().on_failure(exc_info, send_failed_event, return_ok)

    def reject(self, requeue: bool = False) -> None:
        """As Celery's, but logs a requeue after a killed pool process, which could not log it itself."""
        if requeue and self._lost:
            log_delivery(
                self.task, logging.WARNING, "process lost", "requeued: %s", self._lost, subject=self._subject()
            )
        super().reject(requeue)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """As Celery's, except that a message requeued after a hard time limit (``acks_on_timeout=False``) does not end its job:
        no FAILURE is stored and no errback called. The attempt stays counted, so that the quarantine stops an endless loop.
        """
        task: Any = self.task
        if soft or not task.acks_late or task.acks_on_timeout or state.should_terminate:
            super().on_timeout(soft, timeout)
            return
        state.task_ready(self)
        why, subject = f"its hard time limit of {timeout:g} s was exceeded", self._subject()
        log_delivery(task, logging.WARNING, "hard time limit", "requeued: %s", why, subject=subject)
        reached(Point.DEFERRED, subject, why=why, requeued=True)
        self.reject(requeue=True)
