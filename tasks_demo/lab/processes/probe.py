"""The observer inside a lab process: it stops a victim at its point until the nemesis has struck, or lets it go."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from tasks_demo.core.lifecycle import BY_MAIN, Reached


class Probe:
    """Holds a planned victim at its planned point. Everybody else pays one dictionary look-up per point."""

    def __init__(self, path: str, victims: dict[str, str]) -> None:
        self.path = path
        self.victims = victims

    def __call__(self, event: Reached) -> None:
        """Observe one point: if it is a planned one, tell the nemesis and wait for its word, or for death."""
        if self.victims.get(event.subject.task_id) == event.point:
            role = "main" if event.point in BY_MAIN else "child"
            self.say("at", role=role, task_id=event.subject.task_id, point=str(event.point), wait=True)

    def say(self, what: str, *, wait: bool = False, **facts: Any) -> None:
        """Send one message to the lab; with ``wait`` return when it answers or goes away."""
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(self.path)
            line.sendall(
                json.dumps({"what": what, "pid": os.getpid(), "parent": os.getppid(), **facts}).encode() + b"\n"
            )
            if wait:
                line.recv(1)
