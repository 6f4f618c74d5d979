"""Two points of a worker's main process that production does not announce, for the lab only (decision 13).

``fetched``  kombu has popped the message, and Redis does not know yet who has it (kombu/transport/redis.py ``QoS.append``)
``acking``   the acknowledgement is about to be sent
"""

from __future__ import annotations

from typing import Any

from celery import current_app
from kombu.transport.redis import QoS

from tasks_demo.core.lifecycle import Point, reached
from tasks_demo.hooks.request import ObservedRequest
from tasks_demo.patterns.subjects import subject_of


def announce_fetched_and_acking(worker: str) -> None:
    """Announce both points in this process and its children, by wrapping two methods; each is called unchanged."""
    record, acknowledge = QoS.append, ObservedRequest.send_acknowledgement

    def append(self: Any, message: Any, delivery_tag: Any) -> None:
        headers = message.headers
        task = current_app.tasks.get(headers.get("task", ""))
        if task is not None:
            reached(Point.FETCHED, subject_of(task, (), {}, headers["id"], worker, headers))
        record(self, message, delivery_tag)

    def announce_and_acknowledge(self: Any, multiple: bool) -> None:
        reached(Point.ACKING, subject_of(self.task, (), {}, self.id, self.hostname, self.request_dict))
        acknowledge(self, multiple)

    QoS.append = append  # type: ignore[method-assign]
    ObservedRequest.send_acknowledgement = announce_and_acknowledge  # type: ignore[method-assign]
