"""Late acknowledgement without ``reject_on_worker_lost``.

Celery acknowledges the message of a pool process that was killed (celery/worker/request.py on_failure): killed before the effect,
the charge is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks_demo.core.semantics import AT_LEAST_ONCE
from tasks_demo.lab.controls.control import control


@control(("kill-child", "effect_begun", "lost"), believed=AT_LEAST_ONCE, acks_late=True)
def acks_late_alone(task: Any, charge: Callable[..., None]) -> None:
    charge()
