"""A lock that never expires, released when the body ends.

SIGKILL runs no ``finally``: killed before the effect, the lock stays, and the redelivered copy retries until it gives up, so the
charge is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks_demo.lab.controls.control import control, key, redis


@control(("kill-child", "effect_begun", "lost"), acks_late=True, reject_on_worker_lost=True, max_retries=4)
def lock_without_lease(task: Any, charge: Callable[..., None]) -> None:
    if not redis().set(key(task, "lock"), "1", nx=True):
        raise task.retry(countdown=0.2)
    try:
        charge(key=task.request.id)
    finally:
        redis().delete(key(task, "lock"))
