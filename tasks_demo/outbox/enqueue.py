"""Commits a job together with the business data. A relay publishes it afterwards.

What is **not** guaranteed: that the job is published or run only once, or that two jobs keep their order. A job is published
again on evidence that its last copy was lost, and the evidence can be wrong. A superfluous copy is suppressed before its body,
unless the worker that began the job is dead. So a job whose worker is killed runs again and must tolerate that: combine it with
``dedup_lock`` or ``inbox``.

    caller ──▶ BEGIN ─ business data ─ enqueue() ─ COMMIT                            one more row, no broker involved
    relay  ──▶ take due rows (due_at += lease) ─▶ publish, confirmed ─▶ mark published               relay.py
    worker ──▶ claim the row (due_at += lease) ─▶ body, lease renewed                                claims.py, running.py
           ──▶ finished: never due again                                                             completion.py

``due_at`` is when the relay next checks a row; only the end of the job stops the checks. The relay publishes a row that was never
published, leaves a row whose message is still queued, and publishes again a row whose message was lost or whose worker is dead
(evidence.py). This closes the fetch window of ``acks_late`` on Redis and survives the loss of everything the broker held. All
times are from the clock of the outbox's database, except an ``eta``, which the caller chooses.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from celery import Task
from django.db import IntegrityError, connections, router, transaction

from tasks_demo.core.clock import Now
from tasks_demo.core.databases import unsupported
from tasks_demo.core.exceptions import OutboxRefused
from tasks_demo.outbox.validation import (
    as_published,
    check_queue,
    check_route,
    checked_task,
    due,
    kept_options,
    packed_arguments,
    refuse,
)
from tasks_demo.outbox.wake import wake_on_commit
from tasks_demo.patterns.acks_late import AcksLate
from tasks_demo.patterns.transactions import transaction_open
from tasks_demo.records.models import OutboxMessage


class Outbox(AcksLate):
    """Promise: at least 1 execution and 1 effect per committed message, on Redis too.

    It holds for jobs enqueued with :func:`enqueue` while a relay runs. ``delay()`` on such a task is plain ``acks_late``.
    """

    abstract = True
    pattern = "outbox"


def enqueue(
    task: str | Task[Any, Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    task_id: str | None = None,
    using: str | None = None,
    independent: bool = False,
    external: bool = False,
    **options: Any,
) -> str:
    """Insert one message in the caller's transaction. Returns the task ID. Does not contact the broker.

    ``options`` are those of ``apply_async``. ``countdown`` (seconds) and ``eta`` are waited for in the outbox, not in a worker.
    The arguments are stored as the task's serializer writes them. Outside a transaction the row is committed at once.

    Raises OutboxRefused before anything is written:

    - for a job that could not be published later, and for a task ID that is in the outbox already;
    - for a database that is neither SQLite nor PostgreSQL;
    - for a task or queue that this app does not know, unless ``external`` (another app has it);
    - if a transaction is open on other databases only, unless ``independent`` (the job does not depend on it).

    Raises ContradictoryDeclaration for options that the task's ``apply_async`` refuses.
    """
    alias = using or router.db_for_write(OutboxMessage)
    if why := unsupported(alias):
        refuse(f"{why}. Send the app tasks_demo_records to another database with a router, or name one with using=")
    name, known = checked_task(task, args, kwargs or {}, external)
    args, kwargs, options = as_published(known, args, kwargs or {}, options)
    check_queue(options, external)
    if not independent:
        _check_transaction(alias)
    if task_id is not None and not (0 < len(task_id) <= 255 and task_id.isprintable()):
        refuse("the task ID must be 1 to 255 printable characters")
    kept = kept_options(options)
    check_route(name, known, args, kwargs, kept)
    text, content_type, content_encoding = packed_arguments(known, args, kwargs, kept)
    message = OutboxMessage(
        task_id=task_id or str(uuid.uuid4()),
        task=name,
        arguments=text,
        content_type=content_type,
        content_encoding=content_encoding,
        options=kept,
        created_at=Now(),
        due_at=due(options),
    )
    try:
        # If the caller chose the ID, use a savepoint, so that the transaction survives a duplicate.
        with transaction.atomic(using=alias) if task_id is not None else nullcontext():
            message.save(using=alias, force_insert=True)
    except IntegrityError as error:
        raise OutboxRefused(
            f"Task ID {message.task_id} is in the outbox already. Nothing was written; the first message stands."
        ) from error
    wake_on_commit(alias)
    return message.task_id


def _check_transaction(alias: str) -> None:
    if transaction_open(alias):
        return
    others = [c.alias for c in connections.all(initialized_only=True) if transaction_open(c.alias)]
    if others:
        raise OutboxRefused(
            f"A transaction is open on {', '.join(map(repr, others))}, but the outbox is in {alias!r}: the message would be "
            f"committed even if the transaction is rolled back. Nothing was written. Open a transaction on {alias!r}, keep the "
            "business data there, or pass independent=True if the job does not depend on that transaction."
        )
