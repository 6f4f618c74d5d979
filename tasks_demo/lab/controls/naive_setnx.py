"""Sets a key with SETNX, and skips and acknowledges every delivery that finds it.

The key says that somebody has begun, not that the work is done: killed before the effect, the job is redelivered, finds its own
key and is skipped, so the charge is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks_demo.lab.controls.control import control, key, redis


@control(("kill-child", "effect_begun", "lost"), acks_late=True, reject_on_worker_lost=True)
def naive_setnx(task: Any, charge: Callable[..., None]) -> None:
    if redis().set(key(task, "seen"), "1", nx=True, ex=3600):
        charge(key=task.request.id)
