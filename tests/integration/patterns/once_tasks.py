"""Jobs for the tests of ``inbox`` and ``claim_first``: they record each execution, wait at a gate, and misbehave on request."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import django
from django.db import DatabaseError, connections, router, transaction

from project.celery import app

django.setup()  # the patterns have tables; a worker that autodiscovers its tasks does this first

from tasks_demo.core.conf import settings  # noqa: E402
from tasks_demo.demo.shop.models import Booking  # noqa: E402
from tasks_demo.patterns import ClaimFirst, Inbox  # noqa: E402
from tasks_demo.records.models import InboxEntry  # noqa: E402

__all__ = ["app"]


def _operation(operation: str, **_: Any) -> str:
    return operation


def _run(folder: str) -> int:
    """Record that a body runs here; return the number of this execution."""
    diary = Path(folder) / "ran"
    with diary.open("a") as out:
        out.write(f"{os.getpid()}\n")
    return len(diary.read_text().splitlines())


def _gate(folder: str) -> None:
    """Wait until the test opens the gate, if it made one."""
    deadline, pause = time.monotonic() + 25, threading.Event()
    while (Path(folder) / "gate").exists():
        assert time.monotonic() < deadline, "the gate stayed closed"
        pause.wait(0.02)


@Inbox.task(
    bind=True,
    name="once.book",
    operation=_operation,
    autoretry_for=(LookupError,),
    default_retry_delay=0,
    max_retries=3,
)
def book(self: Any, *, operation: str, folder: str, wait: str = "after", first: str = "") -> dict[str, int]:
    """Book once; wait ``before`` or ``after`` the booking; ``first`` is what goes wrong in the first execution only."""
    return _book(self, operation, folder, wait, first)


def _book(self: Any, operation: str, folder: str, wait: str = "after", first: str = "") -> dict[str, int]:
    number = _run(folder)
    if wait == "before":
        _gate(folder)
    Booking.objects.create(operation=operation, task_id=self.request.id, customer="c", amount=1)
    if wait == "after":
        _gate(folder)
    if first and number == 1:
        raise LookupError(first) if first == "retry" else RuntimeError(first)
    return {"number": number}


@Inbox.task(bind=True, name="once.misuse", operation=_operation)
def misuse(self: Any, *, operation: str, folder: str, how: str) -> str:
    """Book, and do something that the pattern must refuse."""
    Booking.objects.create(operation=operation, task_id=self.request.id, customer="c", amount=1)
    alias = router.db_for_write(InboxEntry)
    connection = connections[alias]
    match how:
        case "other":
            with connections["bank"].cursor() as cursor:
                cursor.execute("SELECT 1")
        case "other-swallowed":
            with suppress(Exception), transaction.atomic(using="bank"), connections["bank"].cursor() as cursor:
                cursor.execute(f"CREATE TABLE {operation} (id integer)")
            raise ValueError("as it should")
        case "set_rollback":
            transaction.set_rollback(True, using=alias)
        case "close":
            connection.close()
        case "commit" | "rollback":
            with connection.cursor() as cursor:
                cursor.execute(how.upper())
        case "driver":
            connection.connection.commit()
        case "statement":
            with connection.cursor() as cursor:
                cursor.execute("SELECT nonsense FROM nowhere")
        case "swallowed":
            with suppress(DatabaseError), connection.cursor() as cursor:
                cursor.execute("SELECT nonsense FROM nowhere")
        case "too slow":
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL statement_timeout = '50ms'")
                cursor.execute("SELECT pg_sleep(20)")
        case "large":
            return "x" * (settings.RESULT_MAX_BYTES + 1)
    return how


class RepeatableRead(Inbox):
    """On PostgreSQL, with every transaction at this isolation level."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._set("REPEATABLE READ")
        try:
            return super().__call__(*args, **kwargs)
        finally:
            self._set("READ COMMITTED")

    def _set(self, level: str) -> None:
        with connections[router.db_for_write(InboxEntry)].cursor() as cursor:
            cursor.execute(f"SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {level}")


@RepeatableRead.task(bind=True, name="once.book_repeatable_read", operation=_operation)
def book_repeatable_read(self: Any, *, operation: str, folder: str) -> dict[str, int]:
    """Like ``book``."""
    return _book(self, operation, folder)


@ClaimFirst.task(bind=True, name="once.claim", operation=_operation)
def claim(self: Any, *, operation: str, folder: str, first: str = "") -> dict[str, int]:
    """Record the execution and wait at the gate."""
    number = _run(folder)
    _gate(folder)
    if first:
        raise RuntimeError(first)
    return {"number": number}


@ClaimFirst.task(bind=True, name="once.claim_too", operation=_operation)
def claim_too(self: Any, *, operation: str, folder: str) -> dict[str, int]:
    """Another task with the same operation key."""
    return {"number": _run(folder)}


@app.task(name="once.follow")
def follow(before: Any, folder: str) -> None:
    """The next task of a chain."""
    with (Path(folder) / "followed").open("a") as out:
        out.write(f"{before}\n")
