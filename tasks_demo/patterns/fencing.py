"""Fence writes to your own database: a stale holder of a lease cannot write after a later holder has written.

    with fenced():                       # inside the body of a DedupLock task
        Order.objects.filter(...).update(state="paid")

Does **not** guarantee that a write happens once: what a stale holder wrote *before* the later holder stays. For an effect that
must happen once, use ``inbox``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connections, router, transaction
from django.utils import timezone

from tasks_demo.core.databases import unsupported
from tasks_demo.core.exceptions import Fenced, UnsupportedDatabase
from tasks_demo.core.lifecycle import Point, reached
from tasks_demo.patterns.dedup_lock import lease
from tasks_demo.records.models import Fence

# The row stays locked until the transaction ends, so a later holder waits for this one and sees its writes.
_ADVANCE = """
    INSERT INTO tasks_demo_records_fence (operation, token, at) VALUES (%s, %s, %s)
    ON CONFLICT (operation) DO UPDATE SET token = excluded.token, at = excluded.at
    WHERE tasks_demo_records_fence.token <= excluded.token
    RETURNING token
"""


@contextmanager
def fenced(using: str | None = None) -> Iterator[None]:
    """Open a transaction in which only the latest holder of the lease can write. Costs one more statement.

    ``using``: alias of the database. Raises Fenced if a later holder has written, and NoLease outside the body of a DedupLock
    task; nothing is changed then. In a body that is called as a function it is a plain transaction.
    """
    held = lease()
    held.check()
    alias = using or router.db_for_write(Fence)
    if held.fence and (why := unsupported(alias)):
        raise UnsupportedDatabase(
            f"fenced() stores the fence in the database that it guards: {why}. Nothing was changed. Name another database with "
            "using=."
        )
    with transaction.atomic(using=alias):
        if not held.fence:  # the body was called as a function
            yield
            return
        with connections[alias].cursor() as cursor:
            moment = connections[alias].ops.adapt_datetimefield_value(timezone.now())
            cursor.execute(_ADVANCE, [held.claimed.operation, held.fence, moment])
            advanced = cursor.fetchall()
        if not advanced:
            reached(Point.FENCED, fence=held.fence)
            raise Fenced(
                f"A later holder of {held.claimed.operation!r} has already written to {alias!r}. Nothing was changed."
            )
        yield
