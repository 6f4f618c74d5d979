"""One task per pattern, and an observer that fails once where the operation says so: ``POINT ERROR ...``."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import django
from billiard.exceptions import SoftTimeLimitExceeded
from celery import signals
from celery.backends.redis import RedisBackend
from celery.exceptions import Ignore, Reject, Retry

django.setup()  # the patterns have tables; a worker that autodiscovers its tasks does this first

from django.db import router, transaction  # noqa: E402

from tasks_demo.core.exceptions import LedgerUnavailable  # noqa: E402
from tasks_demo.core.lifecycle import Point, Reached, observe, reached  # noqa: E402
from tasks_demo.leases import heartbeat  # noqa: E402
from tasks_demo.outbox import Outbox  # noqa: E402
from tasks_demo.patterns import AcksEarly, AcksLate, ClaimFirst, DedupLock, Inbox  # noqa: E402
from tasks_demo.records.models import Attempt  # noqa: E402
from tests.integration.patterns.once_tasks import _gate, _operation, _run, app  # noqa: E402

__all__ = ["app"]


class Unspeakable(Exception):
    """An error whose text cannot be produced."""

    def __str__(self) -> str:
        raise KeyError("no words")


ERRORS: dict[str, type[Exception]] = {
    error.__name__: error
    for error in (
        RuntimeError, KeyError, RecursionError, MemoryError, OSError, LedgerUnavailable, SoftTimeLimitExceeded, Ignore,
        Reject, Retry, Unspeakable,
    )
}  # fmt: skip
PATTERNS = (AcksEarly, AcksLate, ClaimFirst, DedupLock, Inbox, Outbox)


def fails(event: Reached) -> None:
    """Raise what the operation names, the first time that it reaches the point it names."""
    point, _, rest = event.subject.operation.partition(" ")
    what = rest.partition(" ")[0]
    if (what in ERRORS or what == "stall") and event.point == point:
        mark = Path(os.environ["FAILED_FOLDER"], f"{rest} {event.subject.pattern}")
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return
        if what == "stall":
            time.sleep(float(os.environ["STALL_SECONDS"]))
            return
        raise ERRORS[what]("as the test wants it")


class Hostile:
    """A result that raises when it is converted to text."""

    def __init__(self, error: str) -> None:
        self.error = error

    def __json__(self) -> Any:
        raise ERRORS[self.error]("no result")

    def __reduce__(self) -> Any:
        raise ERRORS[self.error]("no result")

    __repr__ = __str__ = __reduce__


def body(self: Any, *, operation: str, folder: str, result: str = "") -> Any:
    """Record the execution and announce an effect."""
    number = _run(folder)
    _gate(folder)
    reached(Point.EFFECT_BEGUN)
    reached(Point.EFFECT_DONE)
    return Hostile(result) if result else {"number": number}


def hang(self: Any, *, operation: str, folder: str) -> None:
    """Ignore the soft limit."""
    _run(folder)
    with suppress(SoftTimeLimitExceeded):
        _gate(folder)
    _gate(folder)


#: A result store at an address where nobody listens; one attempt.
NO_STORE = RedisBackend(url="redis://127.0.0.1:1/0", app=app)
NO_STORE.retry_policy = {"max_retries": 0, "interval_start": 0}  # type: ignore[attr-defined]


class InATransaction:
    """A project's own base that wraps every task in a transaction."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with transaction.atomic(using=router.db_for_write(Attempt)):
            return super().__call__(*args, **kwargs)  # type: ignore[misc]


class WithoutAutocommit:
    """A base that turns autocommit off, as ``transaction.set_autocommit(False)`` does."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        alias = router.db_for_write(Attempt)
        transaction.set_autocommit(False, using=alias)
        try:
            return super().__call__(*args, **kwargs)  # type: ignore[misc]
        finally:
            transaction.rollback(using=alias)
            transaction.set_autocommit(True, using=alias)


for pattern in PATTERNS:
    for around in InATransaction, WithoutAutocommit:
        wrapped = type(f"{around.__name__}{pattern.__name__}", (around, pattern), {"abstract": True})
        wrapped.task(bind=True, name=f"failing.{pattern.pattern}.{around.__name__}", operation=_operation)(body)
    for name in f"failing.{pattern.pattern}", f"failing.{pattern.pattern}.logged":
        pattern.task(bind=True, name=name, operation=_operation)(body)
    if pattern.acks_late:
        for name, acks in (("acknowledged", True), ("requeued", False)):
            pattern.task(
                bind=True, name=f"failing.{pattern.pattern}.{name}", operation=_operation,
                soft_time_limit=3, time_limit=3.2, acks_on_timeout=acks, max_attempts=2,
            )(hang)  # fmt: skip
    storeless = pattern.task(
        bind=True, name=f"failing.{pattern.pattern}.storeless", operation=_operation, track_started=True
    )(body)
    storeless.backend = NO_STORE


@signals.task_prerun.connect
def _no_threads(args: Any = None, kwargs: Any = None, **_: Any) -> None:
    """For ``no threads``: forget this process's heartbeat and, once, make it impossible to start its thread."""
    if str(kwargs.get("operation")).startswith("no threads") and not (Path(kwargs["folder"]) / "threads").exists():
        (Path(kwargs["folder"]) / "threads").touch()
        heartbeat._heartbeat.forget()
        threading.stack_size(1 << 46)


@signals.task_postrun.connect
def _threads(**_: Any) -> None:
    threading.stack_size(0)


if os.environ.get("FAILED_FOLDER"):  # in the worker, not in the process that imports this module for the names
    observe(fails)
