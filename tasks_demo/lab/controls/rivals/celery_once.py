"""celery-once 3.0.1: ``QueueOnce`` with its Redis backend, as its README shows it.

It keeps a job from being queued twice, with a lock that is set when the job is published. A redelivered message was not published
again, so nothing compares it: killed before the acknowledgement was sent, the job runs twice. Killed in the body, it is lost, as
any early acknowledged job is, and its lock stays for an hour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import current_app
from celery_once import QueueOnce

from tasks_demo.core.semantics import AT_MOST_ONCE
from tasks_demo.lab.controls.control import control


def configure(redis_url: str) -> None:
    """Point it at this Redis."""
    url = redis_url.replace("unix://", "redis+socket://", 1)
    current_app.conf.ONCE = {"backend": "celery_once.backends.Redis", "settings": {"url": url, "default_timeout": 3600}}


@control(
    ("none", "", ""),
    ("kill-child", "effect_begun", "lost"),
    ("kill-main", "acking", "duplicated"),
    believed=AT_MOST_ONCE,
    base=QueueOnce,
)
def celery_once(task: Any, charge: Callable[..., None]) -> None:
    charge()
