"""Lets a worker report to the outbox that published a delivery: finds the outbox and the copy, and retries a query once on a new
connection.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.db import Error, connections
from django.utils.connection import ConnectionDoesNotExist

from tasks_demo.core import clock
from tasks_demo.core.conf import settings
from tasks_demo.core.databases import execute
from tasks_demo.core.lifecycle import described, job_fields
from tasks_demo.leases.process import this_process
from tasks_demo.patterns.requeue import DEFERRALS, bounded_int

logger = logging.getLogger(__name__)
#: Header of a message that a relay published: the alias of the outbox that workers report to.
HEADER = "tasks_demo_outbox"


def outbox_of(request: Any) -> str | None:
    """Return the alias of the outbox that published this delivery, or None if no outbox did."""
    alias = (request.headers or {}).get(HEADER)
    return alias if isinstance(alias, str) else None


def generation_of(request: Any) -> int:
    """Return the number of retries and deferrals before this copy."""
    deferrals = bounded_int((request.headers or {}).get(DEFERRALS), 2**30)
    return bounded_int(request.retries, 2**30) + deferrals


def holder_of(request: Any) -> str:
    """Return the name of this process as rows store it in ``started_by``."""
    return str(this_process(request.hostname or ""))[:255]


def key_of(alias: str, request: Any) -> tuple[str, str, int]:
    """Return the key of this copy in ``running``."""
    return alias, request.id, generation_of(request)


def first_look() -> float:
    """Return the seconds after which a relay checks whether the worker that began a job is alive."""
    return float(min(settings.OUTBOX_LEASE_SECONDS, settings.OUTBOX_UNSTARTED_SECONDS))


def changed(alias: str, statement: str, seconds: float, parameters: list[Any]) -> int:
    """Run the statement. Returns the number of rows changed. In it, ``{now}`` is now and ``{later}`` is ``seconds`` from now."""
    connection = connections[alias]
    text = statement.format(now=clock.sql_now(connection), later=clock.sql_now(connection, seconds))
    return execute(alias, text, parameters)[0]


def report(alias: str, task_id: str, what: str, ask: Callable[[], Any]) -> Any:
    """Return what ``ask`` returns. If the database does not answer twice, log a warning and return None."""
    try:
        try:
            return ask()
        except Error:
            # Retry on a new connection: the server may have been restarted since the last task.
            connections[alias].close()
            return ask()
    except (Error, ConnectionDoesNotExist) as error:
        logger.warning(
            "%s could not be marked %s in the outbox %r (%s). The job runs anyway, and may be published again.",
            task_id, what, alias, described(error), extra=job_fields(task_id=task_id),
        )  # fmt: skip
        return None
