"""A lock with a long expiry and a completed marker, whose release deletes the key without asking who holds it.

A copy that does not get the lock still releases it, in its ``finally``. Its retry finds the lock free while the first body
still runs, and both charge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks_demo.lab.controls.control import control, key, redis


@control(("slow", "", "duplicated"), acks_late=True, reject_on_worker_lost=True, max_retries=50)
def release_without_owner(task: Any, charge: Callable[..., None]) -> None:
    if redis().exists(key(task, "done")):
        return
    try:
        if not redis().set(key(task, "lock"), "1", nx=True, ex=60):
            raise task.retry(countdown=0.2)
        charge()
        redis().set(key(task, "done"), "1", ex=3600)
    finally:
        redis().delete(key(task, "lock"))
