"""Runs a failed job again: a new job with the same arguments and the same operation key, under a new task ID.

The ledger does not store arguments. They come from the job's outbox row or parked message, for as long as these are kept. Does
**not** guarantee that the body runs: if the operation is completed, its pattern suppresses the job, as it promises.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery import current_app
from django.db import Error, connections, router

from tasks_demo.core.exceptions import DeliveryError
from tasks_demo.core.lifecycle import described
from tasks_demo.patterns import ClaimFirst, DedupLock, Inbox
from tasks_demo.patterns.attempts import alias_of
from tasks_demo.patterns.base import PatternTask
from tasks_demo.patterns.operation_header import sent_operation
from tasks_demo.patterns.parking import message_of
from tasks_demo.publishing.parsing import Job, with_key
from tasks_demo.publishing.publishable import registered
from tasks_demo.records.models import OutboxMessage, Parked

#: Options of the first job that the new one keeps.
KEPT = ("queue", "exchange", "routing_key", "priority", "serializer", "compression", "time_limit", "soft_time_limit")


def jobs_to_rerun(failed: Iterable[tuple[str, str]]) -> dict[str, Job | str]:
    """Return for each task ID the new job, or why there can be none. ``failed``: pairs of task ID and task name.

    Makes two queries per database. Changes nothing, and does not contact the broker.
    """
    names = dict(failed)
    places: dict[str, list[str]] = {}
    for task_id, name in names.items():
        task = registered(name)
        for alias in {router.db_for_write(OutboxMessage), alias_of(task) if isinstance(task, PatternTask) else ""} - {
            ""
        }:
            places.setdefault(alias, []).append(task_id)
    rows: dict[str, OutboxMessage | Parked] = {}
    for alias, task_ids in places.items():
        try:
            rows |= {
                row.task_id: row for row in Parked.objects.using(alias).filter(task_id__in=task_ids).order_by("id")
            }
            rows |= {row.task_id: row for row in OutboxMessage.objects.using(alias).filter(task_id__in=task_ids)}
        except Error:  # the database does not answer or does not have these tables
            connections[alias].close()
    return {task_id: _job(task_id, registered(name), rows.get(task_id)) for task_id, name in names.items()}


def _job(task_id: str, task: Any, row: OutboxMessage | Parked | None) -> Job | str:
    if row is None:
        return "its arguments are unknown: neither the outbox nor the quarantine has the job"
    if task is None or row.task != task.name:
        return "its task is not registered here"
    try:
        if isinstance(row, Parked):
            copy = message_of(row)
            args, kwargs, options = list(copy.args), dict(copy.kwargs), copy.options
        else:
            (args, kwargs), options = row.call(current_app), row.options
        return _with_its_key(task_id, task, args, kwargs, options)
    except DeliveryError as error:
        return f"it cannot be published again: {error}"
    except Exception as error:  # noqa: BLE001  (deserialization may raise anything)
        return f"its arguments cannot be read ({described(error)})"


def _with_its_key(task_id: str, task: Any, args: list[Any], kwargs: dict[str, Any], options: Any) -> Job | str:
    kept = {name: options[name] for name in KEPT if options.get(name) is not None}
    if not isinstance(task, PatternTask):
        return Job(task, args, kwargs, "", kept)
    if task.operation is None:
        if isinstance(task, (ClaimFirst, DedupLock, Inbox)):
            return "its operation key is its task ID, so a new job would be a different operation"
        return Job(task, args, kwargs, "", kept)
    key = sent_operation(options.get("headers"))
    if key is None:
        key = task.operation_key(args, kwargs, task_id)
    key = key or task_id
    return Job(task, args, kwargs, key, {**kept, "headers": with_key(task, args, kwargs, key)})
