"""A lease and a completed marker that is written before the effect instead of after it, with a key for the bank too.

Killed between the two, the job is redelivered, found completed and skipped: the charge is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks_demo.lab.controls.control import control, key, lease_milliseconds, redis


@control(("kill-child", "effect_begun", "lost"), acks_late=True, reject_on_worker_lost=True, max_retries=50)
def completed_before_effect(task: Any, charge: Callable[..., None]) -> None:
    if redis().exists(key(task, "done")):
        return
    if not redis().set(key(task, "lock"), "1", nx=True, px=lease_milliseconds()):
        raise task.retry(countdown=0.2)
    redis().set(key(task, "done"), "1", ex=3600)
    charge(key=task.request.id)
