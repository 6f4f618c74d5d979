"""Who holds a lease, as others on the same machine can check: a claim whose process is gone need not be waited for.

What is **not** guaranteed: an answer. A holder on another machine, in another container, or on a system without ``/proc`` is
never called gone, and its lease ends by itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

_SEPARATOR = " "


@dataclass(frozen=True, slots=True)
class Process:
    """A process, told from every other one, and the task ID that it runs."""

    #: The machine since it was started, and the namespace in which the pid means this process; empty: not known.
    where: str
    pid: int
    #: When the process began, in clock ticks since the machine did: pids are used again.
    start: str
    task_id: str

    def __str__(self) -> str:
        return _SEPARATOR.join((self.where, str(self.pid), self.start, self.task_id))

    @property
    def gone(self) -> bool:
        """True only if this process has certainly ended; a zombie has."""
        here = _here(os.getpid())
        if not self.where or self.where != here.where:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            pass  # somebody else's process: it is there
        found = _stat(self.pid)
        # Not readable: it may be hidden from us, or have ended just now.
        return found is not None and (found[0] in "ZX" or found[1] != self.start)


def this_process(task_id: str) -> Process:
    """This process, for a claim."""
    here = _here(os.getpid())
    return Process(here.where, here.pid, here.start, task_id)


def parse_process(text: str) -> Process | None:
    """What ``str`` made of a holder; None for anything else."""
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
    # /proc may be that of another namespace, where our pid is somebody else.
    try:
        seen = os.readlink("/proc/self")
    except OSError:
        seen = ""
    known = where and found and seen == str(pid)
    return Process(where if known else "", pid, found[1] if known and found else "-", "")


def _stat(pid: int) -> tuple[str, str] | None:
    """State and start of a process; None if they cannot be read."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            # The name is in parentheses and may hold anything.
            fields = file.read().rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError, UnicodeDecodeError):
        return None
