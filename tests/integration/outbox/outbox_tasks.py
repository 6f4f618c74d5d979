"""Jobs for the worker of ``test_reporting`` (``--include``). The tests publish them by name and do not import them."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from celery import shared_task, signature
from celery.exceptions import Ignore, SoftTimeLimitExceeded

from tasks_demo.outbox import Outbox
from tasks_demo.patterns.requeue import DEFERRALS, defer


def _hang() -> None:
    for _ in range(2):
        with suppress(SoftTimeLimitExceeded):  # ignores the soft limit
            time.sleep(60)  # the job's own work: longer than any of its limits


@shared_task(name="outbox_tasks.early")
def early() -> None:
    _hang()


@Outbox.task(name="outbox_tasks.late", max_attempts=None)
def late() -> None:
    _hang()


@Outbox.task(name="outbox_tasks.back", max_attempts=None, acks_on_failure_or_timeout=False)
def back() -> None:
    _hang()


@shared_task(name="outbox_tasks.ignored", acks_late=True)
def ignored() -> None:
    raise Ignore


@shared_task(name="outbox_tasks.replaced", bind=True)
def replaced(self: Any) -> None:
    raise self.replace(signature("celery.accumulate", args=(1, 2)))


@Outbox.task(name="outbox_tasks.later", bind=True, max_attempts=None)
def later(self: Any) -> None:
    if DEFERRALS not in self.request.headers:
        defer(self, "not now")


@Outbox.task(name="outbox_tasks.limited", rate_limit="1/h", max_attempts=None)
def limited() -> None:
    """Runs once an hour; the next one waits in the worker."""
