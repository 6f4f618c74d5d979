"""A lock with an expiry, an owner and a completed marker, that nobody renews while the body runs.

A body that outlives the expiry loses the lock without knowing it: the copy that the visibility timeout delivers meanwhile gets
it, and both charge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from tasks_demo.lab.controls.control import control, key, lease_milliseconds, redis

RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('del', KEYS[1]) end"


@control(("slow", "", "duplicated"), acks_late=True, reject_on_worker_lost=True, max_retries=50)
def lock_without_heartbeat(task: Any, charge: Callable[..., None]) -> None:
    owner = uuid4().hex
    if redis().exists(key(task, "done")):
        return
    if not redis().set(key(task, "lock"), owner, nx=True, px=lease_milliseconds()):
        raise task.retry(countdown=0.2)
    charge()
    redis().set(key(task, "done"), "1", ex=3600)
    redis().eval(RELEASE, 1, key(task, "lock"), owner)
