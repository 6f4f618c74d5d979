"""Celery's own ``worker_deduplicate_successful_tasks``, with late acknowledgement and a result backend, as its docs ask.

It skips a redelivered message whose SUCCESS is stored: killed between the stored result and the acknowledgement, the job runs
once. Killed between the effect and the stored result, nothing is stored, and the job runs again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import current_app

from tasks_demo.lab.controls.control import control


def configure(redis_url: str) -> None:
    """Switch it on, with results in this Redis."""
    address = redis_url.replace("unix://", "redis+socket://", 1)
    current_app.conf.update(result_backend=address, worker_deduplicate_successful_tasks=True)


@control(
    ("none", "", ""),
    ("kill-main", "acking", ""),
    ("kill-child", "effect_done", "duplicated"),
    ("stop", "effect_begun", "duplicated"),
    acks_late=True,
    reject_on_worker_lost=True,
    keeps_results=True,
)
def celery_deduplication(task: Any, charge: Callable[..., None]) -> None:
    charge()
