"""Parks a message whose attempts are used up: stores it as a row, with everything needed to publish it again.

``tasks_demo.quarantine.decisions`` requeues and discards parked messages. Does **not** guarantee that every message can be
published again: one that no serializer supports is stored as readable text only.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from typing import Any, NoReturn

from celery import current_app
from celery.canvas import Signature
from django.utils import timezone
from kombu.exceptions import EncodeError, SerializerNotInstalled

from tasks_demo.core.lifecycle import Point, current, job_fields, reached
from tasks_demo.core.wording import times
from tasks_demo.patterns.requeue import DEFERRALS, PARKED, Unfinished, log_delivery
from tasks_demo.records.fields import fit_column
from tasks_demo.records.models import Attempt, Parked
from tasks_demo.records.serialised import packed, unpacked

logger = logging.getLogger(__name__)
#: Key in an attempt's history line: its process, so that others on the machine can check whether it has ended.
PROCESS = "process"


def park(task: Any, attempt: Attempt, source: int, alias: str) -> Parked:
    """Store the message as a row and delete its attempts, in the caller's transaction. ``source``: the ID of the parked row that
    this delivery was requeued from, or 0."""
    subject = current()
    history = [json.loads(line) for line in attempt.history.splitlines()]
    for attempt_made in history:
        attempt_made.pop(PROCESS, None)
    last = history[-1]
    parked = Parked(
        task_id=attempt.task_id,
        operation=fit_column(subject.operation) if subject else "",
        task=task.name,
        pattern=task.pattern,
        attempts=attempt.count,
        history=history,
        reason=f"Begun {times(attempt.count)} and never ended, last by {last['worker']} (pid {last['pid']}).",
        parked_at=timezone.now(),
        **_packed(task),
    )
    # This copy proves that the source row was requeued, even if the process that requeued it died before marking the row.
    Parked.objects.using(alias).filter(pk=source, state=Parked.State.PARKED).update(state=Parked.State.REQUEUED)
    parked.save(using=alias, force_insert=True)
    attempt.delete(using=alias)
    return parked


def announce(task: Any, parked: Parked) -> NoReturn:
    """Log and announce, after the commit, that the message was parked. Raises Unfinished, so that Celery acknowledges it."""
    log_delivery(
        task, logging.ERROR, "parked", "parked as number %d: %s See it in the admin or with `manage.py quarantine`.",
        parked.pk, parked.reason,
    )  # fmt: skip
    reached(Point.QUARANTINED, why=parked.reason, attempts=parked.attempts, parked=parked.pk)
    raise Unfinished(parked.reason)


def _packed(task: Any) -> dict[str, str]:
    """Return the message as Celery would publish it for a retry, in the format of the task's serializer or another accepted one.

    A message that no serializer supports is stored as readable text and cannot be requeued.
    """
    request = task.request
    # Leave out the headers that the broker and this package added to this copy.
    added = {"redelivered", DEFERRALS, PARKED}
    headers = {name: value for name, value in (request.headers or {}).items() if name not in added}
    # No ETA, because it was due when it began; no expiry, because whoever requeues it wants it to run.
    copy = task.signature_from_request(request, headers=headers, expires=None)
    copy["options"].pop("redelivered", None)
    data, kind, encoding = repr(dict(copy)).encode("ascii", "backslashreplace").decode(), "text/plain", "utf-8"
    for serializer in (task.serializer or current_app.conf.task_serializer, *current_app.conf.accept_content):
        with suppress(EncodeError, SerializerNotInstalled):
            data, kind, encoding = packed(dict(copy), serializer)
            break
    else:
        logger.error(
            "%s[%s] is parked, but no serializer supports its arguments: it cannot be requeued.",
            task.name, request.id, extra=job_fields(task_id=request.id),
        )  # fmt: skip
    return {"message": data, "content_type": kind, "content_encoding": encoding}


def message_of(parked: Parked) -> Signature:
    """Return the parked message: its ``args``, ``kwargs`` and ``options``. Raises what the serializer raises."""
    content = unpacked(parked.message, parked.content_type, parked.content_encoding, current_app.conf.accept_content)
    return Signature.from_dict(content, app=current_app)
