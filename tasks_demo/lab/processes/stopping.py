"""Stops a process with SIGSTOP, where possible while it writes to no SQLite database.

A process has threads that write: the ledger's, and those that renew what the process holds. Stopped in the middle of a commit, it
keeps the database's one write lock, and every cell of the run waits for it instead of only its own job.

Does **not** guarantee it: a job that is stopped inside a transaction of its own (``inbox``) keeps the lock, after WAIT_SECONDS.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil

#: Maximum time to wait until a process writes to no database, seconds.
WAIT_SECONDS = 1.0
#: Maximum time until SIGSTOP has taken effect, seconds.
_EFFECT_SECONDS = 10.0
_LOCKS = Path("/proc/locks")


def stop(pid: int, descriptor: int) -> bool:
    """Stop the process of this pidfd. Returns whether it is stopped. Raises ProcessLookupError."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
        if not is_stopped(pid, _EFFECT_SECONDS):
            return False
        if not locks_file(pid) or time.monotonic() > deadline:
            return True
        signal.pidfd_send_signal(descriptor, signal.SIGCONT)
        time.sleep(0.002)  # its thread needs a moment to commit


def is_stopped(pid: int, within: float = 0.0) -> bool:
    """Whether the process stops within that many seconds: SIGSTOP takes effect when the process gets the processor."""
    deadline = time.monotonic() + within
    while True:
        try:
            status = psutil.Process(pid).status()
            if status in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                return bool(status == psutil.STATUS_STOPPED)
        except psutil.NoSuchProcess:
            return False
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)


def locks_file(pid: int) -> bool:
    """Whether the process holds a write lock on a file, as SQLite does while it writes (proc_locks(5))."""
    for line in _LOCKS.read_text(encoding="ascii").splitlines():
        # 5: POSIX  ADVISORY  WRITE 4711 fe:00:1466553 120 120; a lock that is waited for has "->" after the number.
        fields = line.split()
        if fields[1] == "POSIX" and fields[3] == "WRITE" and fields[4] == str(pid):
            return True
    return False
