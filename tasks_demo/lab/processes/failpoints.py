"""Failpoints: hold a victim at its planned point, inside the process that runs it, until the nemesis has injected the fault."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from tasks_demo.core.lifecycle import BY_MAIN, Reached


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
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(self.path)
            line.sendall(json.dumps({"pid": os.getpid(), "parent": os.getppid(), **message}).encode() + b"\n")
            if wait:
                line.recv(1)
