"""celery-singleton 0.3.1: ``Singleton`` with its Redis backend, as its README shows it.

It keeps a job from being queued while an equal one is queued or runs, with a lock that is set when the job is published. A
redelivered message was not published again, so nothing compares it: killed before the acknowledgement was sent, the job runs
twice. Killed in the body, it is lost, as any early acknowledged job is, and its lock has no expiry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import current_app
from celery_singleton import Singleton

from tasks_demo.core.semantics import AT_MOST_ONCE
from tasks_demo.lab.controls.control import control


def configure(redis_url: str) -> None:
    """Point it at this Redis."""
    current_app.conf.singleton_backend_url = redis_url


@control(
    ("none", "", ""),
    ("kill-child", "effect_begun", "lost"),
    ("kill-main", "acking", "duplicated"),
    believed=AT_MOST_ONCE,
    base=Singleton,
)
def celery_singleton(task: Any, charge: Callable[..., None]) -> None:
    charge()
