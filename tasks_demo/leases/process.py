"""Identify a process so that others on the same machine can check whether it has ended, and need not wait for its lease.

Does **not** detect every death: a process on another machine, in another container, or on a system without ``/proc`` is never
reported as gone; its lease must expire.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

_SEPARATOR = " "


@dataclass(frozen=True, slots=True)
class Process:
    """A unique identification of a process, and the task ID that it runs."""

    #: Boot ID of the machine and pid namespace; empty: unknown.
    where: str
    pid: int
    #: Start of the process in clock ticks since boot: pids are reused.
    start: str
    task_id: str

    def __str__(self) -> str:
        return _SEPARATOR.join((self.where, str(self.pid), self.start, self.task_id))

    @property
    def here(self) -> bool:
        """Whether this process runs in our pid namespace: same boot, same namespace, same start time. A zombie does not count."""
        found = _stat(self.pid)
        known = bool(self.where) and self.where == _here(os.getpid()).where
        return known and found is not None and found[0] not in "ZX" and found[1] == self.start

    @property
    def gone(self) -> bool:
        """Whether this process has certainly ended. A zombie has ended."""
        here = _here(os.getpid())
        if not self.where or self.where != here.where:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            pass  # another user's process: it exists
        found = _stat(self.pid)
        # If unreadable, it may be hidden from us, or have ended just now.
        return found is not None and (found[0] in "ZX" or found[1] != self.start)


def this_process(task_id: str) -> Process:
    """Identify this process, running ``task_id``."""
    here = _here(os.getpid())
    return Process(here.where, here.pid, here.start, task_id)


def child_process(pid: int, task_id: str) -> Process:
    """Identify a child of this process that has not been reaped yet."""
    found = _stat(pid)
    return Process(_here(os.getpid()).where if found else "", pid, found[1] if found else "-", task_id)


def parse_process(text: str) -> Process | None:
    """Parse ``str(process)``; None for any other text."""
    where, _, rest = text.partition(_SEPARATOR)
    pid, _, rest = rest.partition(_SEPARATOR)
    start, separator, task_id = rest.partition(_SEPARATOR)
    return Process(where, int(pid), start, task_id) if separator and pid.isdecimal() and pid != "0" else None


@lru_cache(maxsize=1)
def _here(pid: int) -> Process:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            where = f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        where = ""
    found = _stat(pid)
    # /proc may belong to another namespace, in which our pid denotes another process.
    try:
        seen = os.readlink("/proc/self")
    except OSError:
        seen = ""
    known = where and found and seen == str(pid)
    return Process(where if known else "", pid, found[1] if known and found else "-", "")


def _stat(pid: int) -> tuple[str, str] | None:
    """Return state and start time of a process; None if unreadable."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            # The name is in parentheses and may contain anything.
            fields = file.read().rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError, UnicodeDecodeError):
        return None
