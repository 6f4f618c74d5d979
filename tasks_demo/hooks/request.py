"""Celery's request in the worker's main process, announcing the acknowledgement."""

from __future__ import annotations

import logging
from typing import Any

from celery.worker import state
from celery.worker.request import Request

from tasks_demo.core.lifecycle import Point, observers, reached
from tasks_demo.core.limited_log import limited_log
from tasks_demo.patterns.subjects import subject_of

logger = logging.getLogger(__name__)


class ObservedRequest(Request):
    """Announces ``acked`` when the acknowledgement has been sent.

    Celery's ``Request.acknowledge`` only puts it on the event loop's list of things to do (celery/worker/consumer/consumer.py
    ``call_soon_ack``), so the message itself is watched. On Redis it is one transaction that has been executed then; on
    RabbitMQ the broker may still not have read it.
    """

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(message, *args, **kwargs)
        self._ack_message = message.ack
        message.ack = self._acknowledge_now

    def _acknowledge_now(self, multiple: bool = False) -> None:
        self.send_acknowledgement(multiple)
        if observers():
            reached(Point.ACKED, subject_of(self.task, (), {}, self.id, self.hostname, self.request_dict))

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """As Celery's. But where the task has its message requeued after a hard time limit (``acks_on_timeout=False``), that is
        no end: no FAILURE is stored and no errback called. The attempt stays counted, so the quarantine ends a loop."""
        task: Any = self.task
        if soft or not task.acks_late or task.acks_on_timeout or state.should_terminate:
            super().on_timeout(soft, timeout)
            return
        state.task_ready(self)
        why = f"its hard time limit of {timeout:g} s was exceeded"
        limited_log(
            logger, logging.WARNING, (self.name, "hard time limit"), "%s[%s]: requeued: %s", self.name, self.id, why
        )
        if observers():
            subject = subject_of(self.task, self.args, self.kwargs, self.id, self.hostname)
            reached(Point.DEFERRED, subject, why=why, requeued=True)
        self.reject(requeue=True)

    def send_acknowledgement(self, multiple: bool) -> None:
        """Tell the broker, now."""
        self._ack_message(multiple=multiple)
