"""Sends the bank an idempotency key that is made anew for every attempt.

The bank cannot know that two attempts are one charge: killed after the effect, the job is redelivered and charges again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from tasks_demo.lab.controls.control import control


@control(("kill-child", "effect_done", "duplicated"), acks_late=True, reject_on_worker_lost=True)
def new_bank_key(task: Any, charge: Callable[..., None]) -> None:
    charge(key=str(uuid4()))
