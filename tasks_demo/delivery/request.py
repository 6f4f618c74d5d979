"""Celery's request in the worker's main process, announcing the acknowledgement."""

from __future__ import annotations

from typing import Any

from celery.worker.request import Request

from tasks_demo.delivery.signals import subject_of
from tasks_demo.lifecycle import Point, observers, reached


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
            reached(Point.ACKED, subject_of(self.task, self.args, self.kwargs, self.id, self.hostname))

    def send_acknowledgement(self, multiple: bool) -> None:
        """Tell the broker, now."""
        self._ack_message(multiple=multiple)
