"""Two points of a worker's main process that production does not announce, for the lab only (decision 13).

``fetched``  the process has been handed the message and has not recorded that it has it; where, depends on the broker
``acking``   the acknowledgement is about to be sent
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import current_app
from kombu.utils.imports import symbol_by_name

from tasks_demo.core.lifecycle import Point, reached
from tasks_demo.hooks.request import AnnouncesAcks
from tasks_demo.patterns.subjects import subject_of


def announce_fetched(worker: str, headers: Mapping[str, Any] | None) -> None:
    """Announce ``fetched`` for the message with these headers, unless it is none of a task."""
    task = current_app.tasks.get((headers or {}).get("task", ""))
    if headers is not None and task is not None:
        reached(Point.FETCHED, subject_of(task, (), {}, headers["id"], worker, headers))


def announce_acking() -> None:
    """Announce ``acking`` in this process and its children, by wrapping a method; it is called unchanged."""
    acknowledge = AnnouncesAcks.send_acknowledgement

    def announce_and_acknowledge(self: Any, multiple: bool) -> None:
        reached(Point.ACKING, subject_of(self.task, (), {}, self.id, self.hostname, self.request_dict))
        acknowledge(self, multiple)

    AnnouncesAcks.send_acknowledgement = announce_and_acknowledge  # type: ignore[method-assign]


def announce_acks_of(task: Any) -> None:
    """Announce ``acked`` for a task without a pattern too; its requests are otherwise those of its own class."""
    plain = symbol_by_name(task.Request)
    if not issubclass(plain, AnnouncesAcks):
        task.Request = type(plain.__name__, (AnnouncesAcks, plain), {})
