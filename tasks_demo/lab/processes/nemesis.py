"""The nemesis: strikes planned victims at their points, and says honestly whether the fault landed.

It signals only processes that this run started: a worker's main process that the template forked, and pool
processes whose parent is such a main process, each held by a pidfd from before the signal to after its death, so
that a reused pid can never be hit.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from django.db import connections

from tasks_demo.core.lifecycle import Point
from tasks_demo.lab.plan.faults import Fault

#: Bound on a death after its signal, seconds. A warm shutdown that forgets a job takes about 31 s (docs/explanation/lab.md).
DEATH_PATIENCE = 45.0
#: Bound on what a fault waits for, seconds: an acknowledgement, or an effect.
MOMENT_PATIENCE = 30.0
#: Bound on the template's word that a process is one of ours, seconds.
KNOWN_PATIENCE = 30.0


class Nemesis:
    """Listens at ``socket_path`` for the processes of one cell.

    ``on_fault(task_id, detail)`` is called for every fault at a planned victim that reached its point. ``now(task_id,
    point)``, if given, is polled before the fault: "" when the moment has come, or what is still missing. ``pause_seconds``:
    how long SIGSTOP lasts.
    """

    def __init__(
        self,
        socket_path: Path,
        fault: Fault,
        victims: dict[str, Point],
        *,
        on_fault: Callable[[str, dict[str, Any]], None],
        on_ready: Callable[[int], None],
        now: Callable[[str, str], str] | None = None,
        pause_seconds: float = 0.0,
    ) -> None:
        self.fault = fault
        self.victims = victims
        self.landed = 0
        self.struck: set[str] = set()
        self.mains: set[int] = set()
        self.address = str(socket_path)
        self._on_fault = on_fault
        self._on_ready = on_ready
        self._now = now
        self._pause_seconds = pause_seconds
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._answering: set[threading.Thread] = set()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(socket_path))
        self._server.listen(64)
        self._thread = threading.Thread(target=self._serve, name="nemesis", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening. A victim that still waits is let go."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
        for thread in list(self._answering):
            thread.join()

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                line, _ = self._server.accept()
            except OSError:
                return
            # Each in a thread of its own: while one victim sleeps, its copy may come by.
            thread = threading.Thread(target=self._listen, args=(line,), name="nemesis-line", daemon=True)
            self._answering.add(thread)
            thread.start()

    def _listen(self, line: socket.socket) -> None:
        # What cannot be understood is let go: the line closes.
        try:
            with line, contextlib.suppress(OSError, ValueError, LookupError, TypeError):
                self._answer(line)
        finally:
            connections.close_all()
            self._answering.discard(threading.current_thread())

    def _answer(self, line: socket.socket) -> None:
        line.settimeout(DEATH_PATIENCE)
        message = json.loads(line.makefile("rb").readline())
        if message["what"] == "ready":
            self._on_ready(message["pid"])
            return
        task_id, point, role = message["task_id"], message["point"], message["role"]
        with self._lock:
            planned = self.victims.get(task_id) == point or role == "publisher"
            if not planned or (task_id in self.struck and self.fault is not Fault.POISON):
                line.sendall(b"g")  # its turn is over: the second delivery goes on
                return
            self.struck.add(task_id)
        child, main = (message["pid"], message["parent"]) if role == "child" else (0, message["pid"])
        self._wait_until_known(main)
        self.strike(line, task_id, point, child, main)

    def _wait_until_known(self, main: int) -> None:
        """A process may be at its point before the lane has heard its number from the template."""
        deadline = time.monotonic() + KNOWN_PATIENCE
        while main not in self.mains and time.monotonic() < deadline and not self._closing.wait(0.005):
            pass

    def _report(self, task_id: str, detail: dict[str, Any]) -> None:
        with self._lock:
            self.landed += bool(detail["landed"])
        self._on_fault(task_id, detail)

    def strike(self, line: socket.socket, task_id: str, point: str, child: int, main: int) -> None:
        """Do what the fault says to a victim that waits at the other end of ``line``, and report it.

        ``child`` 0: the victim is a main process (or a publisher) at a point of its own.
        """
        fault = self.fault
        detail: dict[str, Any] = {
            "what": str(fault),
            "victim": fault.victim,
            "point": point,
            "pid": child if fault.victim == "child" else main,
            "main_pid": main,
            "child_pid": child or None,
            "landed": False,
            "why": "",
            "died": "",
        }
        sign = fault.signal
        why = self._not_ours(child, main) or self._not_now(task_id, point)
        if sign is None:
            why = "this fault strikes nobody"
        if fault.victim == "child" and not child:
            why = f"{point} is a point of the main process"
        if why or sign is None:
            line.sendall(b"g")
            return self._report(task_id, {**detail, "why": why})
        with contextlib.ExitStack() as held:
            main_fd = held.enter_context(_pidfd(main))
            child_fd = held.enter_context(_pidfd(child)) if child else main_fd
            if fault is Fault.STOP:
                return self._pause(line, task_id, detail, child_fd)
            if fault.victim == "group":
                os.killpg(main, sign)
            else:
                signal.pidfd_send_signal(child_fd if fault.victim == "child" else main_fd, sign)
            if fault is Fault.TERM:
                line.sendall(b"g")  # warm: the running body may finish
                dead = _ended(main_fd)
                why = "" if dead else f"main did not end within {DEATH_PATIENCE:.0f} s"
                return self._report(
                    task_id, {**detail, "landed": dead, "why": why, "died": "warm shutdown" if dead else ""}
                )
            dead = _ended(child_fd) and (fault.victim == "child" or _ended(main_fd))
            if not dead:
                line.sendall(b"g")
                why = f"no death within {DEATH_PATIENCE:.0f} s of the signal"
                return self._report(task_id, {**detail, "why": why})
            # The victim was in our hands until it died: it cannot have gone on.
            self._report(task_id, {**detail, "landed": True, "died": sign.name})
        return None

    def _pause(self, line: socket.socket, task_id: str, detail: dict[str, Any], descriptor: int) -> None:
        """Stop the process, let it go on within, and wake it after the pause: what it does then, it does too late.

        It is reported while it still sleeps: once awake it may be at its next job before the report is written down.
        """
        child = detail["pid"]
        signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
        try:
            stopped = _is_stopped(child)
            line.sendall(b"g")
            self._closing.wait(self._pause_seconds)  # the fault itself: this long the process sleeps
            slept = stopped and _is_stopped(child)
            why = "" if slept else "the process was not asleep all the time"
            self._report(task_id, {**detail, "landed": slept, "why": why, "seconds": self._pause_seconds})
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGCONT)

    def _not_ours(self, child: int, main: int) -> str:
        if main not in self.mains:
            return f"pid {main} is not a worker that this run started"
        try:
            if os.getpgid(main) != main:
                return f"pid {main} does not lead a group of its own"
            if child and (psutil.Process(child).ppid() != main or os.getpgid(child) != main):
                return f"pid {child} is not a pool process of worker {main}"
        except (psutil.NoSuchProcess, ProcessLookupError):
            return f"pid {child or main} is gone"
        return ""

    def _not_now(self, task_id: str, point: str) -> str:
        if self._now is None:
            return ""
        deadline = time.monotonic() + MOMENT_PATIENCE
        while missing := self._now(task_id, point):
            if self._closing.wait(0.005) or time.monotonic() > deadline:
                return f"{missing} within {MOMENT_PATIENCE:.0f} s"
        return ""


def _is_stopped(pid: int) -> bool:
    """Whether the process sleeps after SIGSTOP; it takes a moment to take effect."""
    deadline = time.monotonic() + 1
    while True:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                return True
        except psutil.NoSuchProcess:
            return False
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _ended(descriptor: int) -> bool:
    """Whether the process of this pidfd has ended, within the bound; a zombie has."""
    readable, _, _ = select.select([descriptor], [], [], DEATH_PATIENCE)
    return bool(readable)
