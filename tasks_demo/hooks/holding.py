"""Tells which messages a worker has and has not finished: reserved, running, or waiting for their ETA or their rate limit.

Celery's own ``inspect query_task`` does not know the last two: they are in no list of requests until the pool may have them.

Does **not** tell about messages that the broker's client has prefetched and the worker has not read yet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from celery import signals

from tasks_demo.outbox.copy_search import QUERY


def unfinished_task_ids(consumer: Any) -> Iterator[str]:
    """Yield the task IDs of the messages that this worker has and has not finished. Callable from any thread."""
    from celery.worker import state  # imported in workers only

    for request in (*_settled_copy(state.reserved_requests), *_waiting(consumer)):
        yield str(request.id)


def _waiting(consumer: Any) -> Iterator[Any]:
    """Yield the requests that wait for their ETA or their rate limit."""
    from celery.worker.request import Request

    for entry in _settled_copy(consumer.timer.schedule.queue):
        arguments = getattr(getattr(entry, "entry", None), "args", None)
        if arguments and isinstance(arguments[0], Request):
            yield arguments[0]
    for bucket in _settled_copy(getattr(consumer, "task_buckets", {}).values()):
        for request, _ in _settled_copy(getattr(bucket, "contents", ())):
            yield request


def _settled_copy(items: Any) -> tuple[Any, ...]:
    """Copy a collection that the worker's main thread may change meanwhile; empty if it changes too often."""
    for _ in range(100):
        try:
            return tuple(items)
        except RuntimeError:  # changed during the iteration
            continue
    return ()


@signals.worker_init.connect(weak=False, dispatch_uid="tasks_demo.holding")
def _answer_queries(**_: Any) -> None:
    """Make this worker answer the remote control command that relays of the outbox send."""
    from celery.worker.control import inspect_command

    inspect_command(name=QUERY, variadic="ids", signature="[id1 [id2 [... [idN]]]]")(_holds)


def _holds(state: Any, ids: Collection[str], **_: Any) -> list[str]:
    """Which of these task IDs this worker holds, waiting ones included."""
    return sorted(set(ids) & set(unfinished_task_ids(state.consumer)))
