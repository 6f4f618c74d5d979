"""An inbox row that is committed in a transaction of its own, before that of the effect.

Killed between the two commits, the job is redelivered, finds its row and is skipped: the booking is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.utils import timezone

from tasks_demo.lab.controls.control import control
from tasks_demo.records.models import InboxEntry


@control(("kill-child", "effect_begun", "lost"), books="shop", acks_late=True, reject_on_worker_lost=True)
def inbox_apart(task: Any, charge: Callable[..., None]) -> None:
    row = {"task_id": task.request.id, "digest": "", "completed_at": timezone.now()}
    _, is_new = InboxEntry.objects.get_or_create(operation=task.request.id, defaults=row)
    if is_new:
        charge()
