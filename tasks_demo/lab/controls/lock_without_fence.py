"""A lock with an expiry, a heartbeat and a completed marker, and a receiver that is given neither fence nor key.

A process that is stopped for longer than the expiry sends no heartbeat. Its copy gets the lock and charges; when the first goes
on, nothing refuses its late write, and it charges too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tasks_demo.lab.controls.control import control, key, lease_milliseconds, redis


@control(("stop", "effect_begun", "duplicated"), acks_late=True, reject_on_worker_lost=True, max_retries=50)
def lock_without_fence(task: Any, charge: Callable[..., None]) -> None:
    lease, lock, done = lease_milliseconds(), key(task, "lock"), key(task, "done")
    if redis().exists(done):
        return
    if not redis().set(lock, "1", nx=True, px=lease):
        raise task.retry(countdown=0.2)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(lease / 3000):
            redis().pexpire(lock, lease)

    threading.Thread(target=beat, daemon=True).start()
    try:
        charge()
        redis().set(done, "1", ex=3600)
    finally:
        ended.set()
    redis().delete(lock)
