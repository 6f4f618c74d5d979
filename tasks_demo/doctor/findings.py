"""A row of the doctor's result, and the time limits for every question."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote, urlsplit

from django.db import connections

from tasks_demo.core.exceptions import InvalidSetting
from tasks_demo.core.lifecycle import described

#: Maximum time to wait for one reply of a server, seconds.
PATIENCE = 3.0
#: Maximum time for one part, seconds; after that, the part counts as silent.
DEADLINE = 10.0


class State(StrEnum):
    """The state of one row. ``fail``: a promise is broken, or a part that jobs need cannot be used."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One row: the ``part`` examined, ``what`` was looked at, what was ``seen``, and the ``fix``, empty if none is needed."""

    part: str
    what: str
    state: State
    seen: str
    fix: str = ""
    #: False: the part cannot be used, so jobs cannot run, and its other rows are missing or unreliable.
    ready: bool = True


def ok(part: str, what: str, seen: str) -> Finding:
    """Return a row about something that is as it should be."""
    return Finding(part, what, State.OK, seen)


def warn(part: str, what: str, seen: str, fix: str) -> Finding:
    """Return a row about something that may break a promise or delay jobs."""
    return Finding(part, what, State.WARN, seen, fix)


def fail(part: str, what: str, seen: str, fix: str) -> Finding:
    """Return a row about a broken promise. Jobs run."""
    return Finding(part, what, State.FAIL, seen, fix)


def unusable(part: str, what: str, seen: str, fix: str) -> Finding:
    """Return a row about a part that jobs need and that cannot be used."""
    return Finding(part, what, State.FAIL, seen, fix, ready=False)


#: The part that is asked, and the ``what`` of its first row.
Question = tuple[str, str]


def side_by_side(works: Mapping[Question, Callable[[], list[Finding]]], seconds: float = DEADLINE) -> list[Finding]:
    """Run all in parallel threads and return their rows in the given order.

    Does not stop work that takes longer than ``seconds``: it stays in a daemon thread, and its part counts as silent.
    """
    found: dict[Question, list[Finding]] = {}

    def run(asked: Question, work: Callable[[], list[Finding]]) -> None:
        try:
            found[asked] = work()
        except Exception as error:  # noqa: BLE001 (drivers can raise anything; one part must not hide the others)
            is_setting = isinstance(error, InvalidSetting)
            fix = (
                "Correct this setting." if is_setting else "This error is unknown to the doctor. See the server's log."
            )
            found[asked] = [unusable(*asked, reason(error), fix)]
        finally:
            connections.close_all()  # this thread's own: a web process asks often

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in works.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = f"no answer within {seconds:g} s"
    return [
        row
        for asked in works
        for row in found.get(asked) or [unusable(*asked, late, "Start it, or correct its address.")]
    ]


def reason(error: BaseException) -> str:
    """Return class and text of an error, or of its cause if it has one, on one line."""
    return described(error.__cause__ or error)


def address(url: str) -> str:
    """Return scheme, host and port, or the path of a socket, without credentials. Empty: the URL cannot be parsed.

    Accepts several Sentinels, as Celery writes them (``;`` between URLs) or as the lease store does (``,`` between hosts).
    """
    parts = [_address(part) for part in url.split(";")]
    return ";".join(parts) if all(parts) else ""


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        hosts = [urlsplit(f"//{place}") for place in parts.netloc.rpartition("@")[2].split(",")]
        named = ",".join(f"{host.hostname or ''}{f':{host.port}' if host.port else ''}" for host in hosts)
    except ValueError:
        return ""
    # An "@" here follows a password whose special characters are not percent-encoded.
    if not parts.scheme or "@" in parts.path + parts.query + parts.fragment:
        return ""
    path = "" if named else unquote(parts.path)
    return f"{parts.scheme}://{named}{path}"
