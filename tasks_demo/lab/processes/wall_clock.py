"""Moves the wall clock of a cell's worker forward and back, by libfaketime. Monotonic clocks and the lab's own clock go on."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from glob import glob
from pathlib import Path

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.timing import DISTURBED_SECONDS, HELD_SECONDS, JUMP_SECONDS
from tasks_demo.lab.processes.failpoints import TELL_TIME


class WallClock:
    """The clock that all processes of a cell's worker share: a file that libfaketime reads whenever they ask for the time.

    ``lock``: the lock of the thread that moves it. ``held_seconds``: how long the victim is held at its point; ``seconds``: how
    long it then runs in the wrong time.
    """

    held_seconds, seconds = HELD_SECONDS, DISTURBED_SECONDS[Fault.CLOCK_JUMP]

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lock = threading.Lock()
        self._ahead = 0.0
        self._set(0)

    def begin(self, _task_id: str) -> int:
        """Move it forward."""
        self._set(JUMP_SECONDS)
        return 1

    def release(self, line: socket.socket) -> None:
        """Let the victim at the other end of ``line`` go on in the wrong time, and ask it for its time."""
        line.sendall(TELL_TIME)
        self._ahead = float(line.recv(64) or 0) - time.time()

    def wait_until_over(self, closing: threading.Event) -> None:
        """Return when it has been wrong for its time, or when ``closing`` is set."""
        closing.wait(self.seconds)

    def heal(self) -> str:
        """Move it back to the right time; return why nobody can have noticed, or ""."""
        self._set(0)
        return "" if self._ahead > JUMP_SECONDS / 2 else "the victim was not in the wrong time"

    def _set(self, ahead: int) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(f"+{ahead}\n", encoding="ascii")
        new.replace(self.file)  # never half of it


def preloaded() -> dict[str, str]:
    """The variables of a process that has libfaketime and the right time, until it follows a file."""
    return {
        "LD_PRELOAD": " ".join(filter(None, [library(), os.environ.get("LD_PRELOAD", "")])),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DISABLE_SHM": "1",
        "NO_FAKE_STAT": "1",
    }


def follow(file: str) -> None:
    """Have this process and its children read the time from ``file``, of a ``WallClock``, from now on."""
    os.environ["FAKETIME_TIMESTAMP_FILE"] = file


def let_sleep() -> None:
    """Where this process was started with libfaketime, let it sleep, whether it follows a file or not: libfaketime 0.9.10 refuses
    what time.sleep asks the kernel for (clock_nanosleep until a monotonic time: EINVAL)."""
    if "libfaketime" not in os.environ.get("LD_PRELOAD", ""):
        return
    plain = time.sleep
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get("sleep") is plain:
            module.sleep = _sleep  # type: ignore[attr-defined]


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


def library() -> str:
    """libfaketime of this machine. Raises EnvironmentNotReady if there is none."""
    found = sorted(glob("/usr/lib/*/faketime/libfaketime.so.1"))
    if not found:
        raise EnvironmentNotReady(
            "libfaketime is not installed on this machine, and the lab moves the clock of its own workers only. Install it "
            "(Debian: apt-get install faketime), or leave this fault out."
        )
    return found[-1]
