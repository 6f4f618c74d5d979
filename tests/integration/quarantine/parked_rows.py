"""Parked messages that no worker has parked, for tests of screens and decisions."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

from celery import current_app

from tasks_demo.records.models import Parked

#: No worker consumes it.
QUEUE = "nobody"


def lying(note: Any = None, **fields: Any) -> Parked:
    """A parked message whose copy goes to a queue without a consumer."""
    task_id = str(uuid.uuid4())
    options = {"task_id": task_id, "queue": QUEUE}
    copy = current_app.signature(
        "poison.acks_late", kwargs={"diary": "nowhere", "deed": "nothing", "note": note}, options=options
    )
    known = {
        "task_id": task_id, "operation": task_id, "task": "poison.acks_late", "pattern": "acks_late",
        "message": json.dumps(copy), "content_type": "application/json", "content_encoding": "utf-8", "attempts": 5,
        "history": [], "reason": "of this test", "parked_at": datetime.now(UTC), **fields,
    }  # fmt: skip
    return Parked.objects.create(**known)
