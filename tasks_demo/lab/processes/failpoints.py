"""Failpoints: hold a victim at its planned point, inside the process that runs it, until the nemesis has injected the fault."""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from tasks_demo.core import lifecycle
from tasks_demo.core.lifecycle import BY_MAIN, Reached

#: What the nemesis answers: go on; at once, and with the victim's time; without memory. And what a victim says to it when its
#: allocation has failed, or has not.
GO_ON, TELL_TIME, NO_MEMORY, FAILED, ALLOCATED = b"g", b"t", b"m", b"!", b"-"
#: More than any free memory that a process holds.
_MUCH = 1 << 30


class Failpoints:
    """An observer of the points of a task's life. A point that is not planned costs one dictionary look-up."""

    def __init__(self, path: str, victims: dict[str, str]) -> None:
        self.path = path
        self.victims = victims

    def __call__(self, event: Reached) -> None:
        """Announce a planned point to the nemesis, and wait until it answers or this process is killed."""
        if self.victims.get(event.subject.task_id) == event.point:
            role = "main" if event.point in BY_MAIN else "child"
            self.wait_at(role, event.subject.task_id, event.point)

    def wait_at(self, role: str, task_id: str, point: str) -> None:
        """Announce that ``role`` (``child``, ``main`` or ``publisher``) has reached the point; return when it may go on."""
        self._send(wait=True, what="at", role=role, task_id=task_id, point=str(point))

    def announce_ready(self) -> None:
        """Tell the lab that this worker consumes."""
        self._send(wait=False, what="ready")

    def _send(self, *, wait: bool, **message: Any) -> None:
        line = socket.socket(socket.AF_UNIX)
        try:
            line.connect(self.path)
            line.sendall(json.dumps({"pid": os.getpid(), "parent": os.getppid(), **message}).encode() + b"\n")
            answer = line.recv(1) if wait else GO_ON
            if answer == NO_MEMORY:
                _fail_at_the_next_call(line)
                return
            if answer == TELL_TIME:
                line.sendall(repr(time.time()).encode())
        except BaseException:
            line.close()
            raise
        line.close()


def _fail_at_the_next_call(line: socket.socket) -> None:
    """Let the next function that this thread calls outside of the announcement meet a limit on memory: it raises MemoryError.

    An error of an observer would be logged, and not be the job's.
    """

    def look(frame: FrameType, event: str, _: object) -> None:
        if event != "call" or frame.f_globals.get("__name__") in {__name__, lifecycle.__name__}:
            return
        sys.setprofile(None)
        with line:
            try:
                _allocate_above_the_limit()
            except MemoryError:
                line.sendall(FAILED)
                line.recv(1)
                raise
            line.sendall(ALLOCATED)
            line.recv(1)

    sys.setprofile(look)


def _allocate_above_the_limit() -> None:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used, limits[1]))
    try:
        bytearray(_MUCH)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
