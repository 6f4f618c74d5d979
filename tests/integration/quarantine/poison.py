"""Jobs that kill the process that runs them, for workers only (``--include tests.integration.quarantine.poison``).

The tests do not import it: the system checks rightly reject these tasks in any process that knows them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from project.celery import app
from tasks_demo.core.lifecycle import Point, Reached, observe
from tasks_demo.patterns import AcksLate, DedupLock, Inbox
from tasks_demo.records.fields import fit_column
from tasks_demo.records.models import Attempt

#: Seconds until the message of a dead main process is redelivered.
app.conf.broker_transport_options = {
    "visibility_timeout": float(os.environ.get("POISON_VISIBILITY_SECONDS", "900")),
    "unacked_restore_interval": 0.5,
    "unacked_restore_throttle": 1,
    "unacked_mutex_expire": 1,
}


class Odd(Exception):
    """Raised by a body that misbehaves."""


def _write(diary: str, **entry: Any) -> None:
    # One write of one line: a SIGKILL a moment later leaves it whole.
    with Path(diary).open("a", encoding="ascii") as file:
        file.write(json.dumps(entry) + "\n")


def body(task: Any, diary: str, deed: str = "kill-child", note: Any = None) -> str:
    """Write one line into the diary, then misbehave, unless a file named ``<diary>.cure`` exists."""
    request = task.request
    counted = (
        Attempt.objects.filter(task_id=fit_column(request.id), retries=request.retries)
        .values_list("count", flat=True)
        .first()
    )
    info = {name: (request.delivery_info or {}).get(name) for name in ("routing_key", "priority")}
    _write(diary, counted=counted, headers=request.headers, note=ascii(note), retries=request.retries, **info)
    if Path(f"{diary}.cure").exists():
        return "cured"
    match deed:
        case "kill-child":
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill-main":
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()  # until the kernel kills this process too
        case "raise":
            raise Odd("on purpose")
        case "retry":
            raise task.retry(countdown=0, max_retries=4, exc=Odd("after 4 retries"))
        case "unpublishable retry":
            raise task.retry(countdown=0, serializer="no such", exc=Odd("on purpose"))
        case "memory":
            raise MemoryError("on purpose")
        case "exit":
            sys.exit(3)
    return "done"


@AcksLate.task(bind=True, name="poison.acks_late")
def late(self: Any, diary: str, deed: str = "kill-child", note: Any = None) -> str:
    """Poison under acks_late."""
    return body(self, diary, deed, note)


@DedupLock.task(bind=True, name="poison.dedup_lock")
def lock(self: Any, diary: str, deed: str = "kill-child", note: Any = None) -> str:
    """Poison under dedup_lock."""
    return body(self, diary, deed, note)


@Inbox.task(bind=True, name="poison.inbox")
def inbox(self: Any, diary: str, deed: str = "kill-child", note: Any = None) -> str:
    """Poison under inbox."""
    return body(self, diary, deed, note)


@AcksLate.task(bind=True, name="poison.once", max_attempts=1)
def once(self: Any, diary: str, deed: str = "kill-child", note: Any = None) -> str:
    """Poison with its own limit."""
    return body(self, diary, deed, note)


@AcksLate.task(bind=True, name="poison.unlimited", max_attempts=None)
def unlimited(self: Any, diary: str, deed: str = "kill-child", note: Any = None) -> str:
    """Poison that is redelivered without end."""
    return body(self, diary, deed, note)


def _no_key(*_: Any, **__: Any) -> str:
    raise ZeroDivisionError("an operation function is anybody's code")


@AcksLate.task(bind=True, name="poison.no_key", operation=_no_key)
def no_key(self: Any, diary: str) -> None:
    """Fails before its body, wherever its operation is computed."""


@AcksLate.task(name="poison.linked")
def linked(before: str, diary: str) -> None:
    """The continuation of a cured job."""
    _write(diary, linked=before)


def _die_after_parking(event: Reached) -> None:
    """SIGKILL once between the commit of the parked row and the acknowledgement, if the test asked for it for this message."""
    flag = Path(os.environ.get("POISON_FLAG", ""))
    if event.point is Point.QUARANTINED and flag.is_file() and flag.read_text() == event.subject.task_id:
        flag.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def _defer_the_second_start(event: Reached) -> None:
    """After a job that asks for it has died, refuse its next start once: it is requeued, although its body did not begin."""
    # A file name has at most 255 characters.
    flag = Path(f"{os.environ.get('POISON_FLAG')}.{event.subject.task_id[:36]}")
    if event.point is Point.STARTED and flag.is_file() and flag.read_text() == "died":
        flag.write_text("deferred")
        raise OSError("as the test wants it")
    if event.point is Point.STARTED and flag.is_file() and not flag.read_text():
        flag.write_text("died")


observe(_die_after_parking)
observe(_defer_the_second_start)
