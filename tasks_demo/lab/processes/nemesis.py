"""The nemesis: injects a fault when a planned victim reaches its point, and reports whether that succeeded.

It signals only processes that this run started: a worker's main process that the template forked, and pool processes
whose parent is such a main process. Each is held by a pidfd from before the signal until after its death, so that a reused
pid is never hit.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
from django.db import connections

from tasks_demo.core.lifecycle import Point
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.processes.deaths import DEATH_SECONDS, ended, pidfd
from tasks_demo.lab.processes.failpoints import FAILED, GO_ON, NO_MEMORY
from tasks_demo.lab.processes.fault_proxy import FaultProxy
from tasks_demo.lab.processes.fault_report import FaultReport
from tasks_demo.lab.processes.stopping import is_stopped, stop
from tasks_demo.lab.processes.wall_clock import WallClock

#: Maximum time to wait for the precondition of a fault (an acknowledgement, an effect), seconds.
PRECONDITION_SECONDS = 30.0
#: Maximum time to wait until the template has confirmed that a process is one of ours, seconds.
KNOWN_SECONDS = 30.0


class Nemesis:
    """Listens at ``socket_path`` for the processes of one cell that have reached a failpoint.

    :param victims: task ID → point.
    :param on_fault: called with the task ID and the report of every fault at a planned victim.
    :param on_ready: called with the pid of every worker that consumes.
    :param precondition: polled with the task ID and the point before the fault: what is still missing, or "".
    :param pause_seconds: how long SIGSTOP lasts.
    :param disturbance: the proxy before the broker or the wall clock of the worker, where that is what the fault disturbs.
    :param what: the name of the fault in reports, where it is combined with another.
    """

    def __init__(
        self,
        socket_path: Path,
        fault: Fault,
        victims: dict[str, Point],
        *,
        on_fault: Callable[[str, FaultReport], None],
        on_ready: Callable[[int], None],
        precondition: Callable[[str, str], str] | None = None,
        pause_seconds: float = 0.0,
        disturbance: FaultProxy | WallClock | None = None,
        what: str = "",
    ) -> None:
        self.fault = fault
        self._what = what or str(fault)
        self.victims = victims
        self.injected = 0
        self.reached: set[str] = set()
        self.mains: set[int] = set()
        #: Workers that have consumed.
        self.ready: set[int] = set()
        self.address = str(socket_path)
        self._on_fault = on_fault
        self._on_ready = on_ready
        self._precondition = precondition
        self._pause_seconds = pause_seconds
        self._disturbance = disturbance
        #: A victim is held, of a fault that happens once and to no process of a worker; and it may go on.
        self.held, self.released = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._answering: set[threading.Thread] = set()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(socket_path))
        self._server.listen(64)
        self._thread = threading.Thread(target=self._serve, name="nemesis", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening. A victim that still waits goes on."""
        self._closing.set()
        self.released.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
        for thread in list(self._answering):
            thread.join()

    def report(self, task_id: str, report: FaultReport) -> None:
        """Count a fault and pass it on."""
        with self._lock:
            self.injected += report.injected
        self._on_fault(task_id, report)

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                line, _ = self._server.accept()
            except OSError:
                return
            # A thread for each: while one victim is stopped, its copy may reach the point.
            thread = threading.Thread(target=self._listen, args=(line,), name="nemesis-line", daemon=True)
            self._answering.add(thread)
            thread.start()

    def _listen(self, line: socket.socket) -> None:
        # A message that cannot be understood is dropped: the line closes, and the sender goes on.
        try:
            with line, contextlib.suppress(OSError, ValueError, LookupError, TypeError):
                self._answer(line)
        finally:
            connections.close_all()
            self._answering.discard(threading.current_thread())

    def _answer(self, line: socket.socket) -> None:
        line.settimeout(DEATH_SECONDS)
        message = json.loads(line.makefile("rb").readline())
        if message["what"] == "ready":
            self._on_ready(message["pid"])
            self.ready.add(message["pid"])
            return
        task_id, point, role = message["task_id"], message["point"], message["role"]
        with self._lock:
            planned = self.victims.get(task_id) == point or role == "publisher"
            if not planned or (task_id in self.reached and self.fault is not Fault.POISON):
                line.sendall(GO_ON)  # each victim is hit once; its second delivery goes on
                return
            self.reached.add(task_id)
        child, main = (message["pid"], message["parent"]) if role == "child" else (0, message["pid"])
        self._wait_until_known(main)
        self.inject(line, task_id, point, child, main)

    def _wait_until_known(self, main: int) -> None:
        """A process may be at its point before the lane has heard its pid from the template."""
        deadline = time.monotonic() + KNOWN_SECONDS
        while main not in self.mains and time.monotonic() < deadline and not self._closing.wait(0.005):
            pass

    def inject(self, line: socket.socket, task_id: str, point: str, child: int, main: int) -> None:
        """Inject the fault into a victim that waits at the other end of ``line``, and report it.

        ``child`` 0: the victim is a main process (or a publisher) at a point of its own.
        """
        fault, sign = self.fault, self.fault.signal
        report = FaultReport(
            what=self._what,
            victim=fault.victim,
            point=point,
            pid=child if fault.victim == "child" else main,
            main_pid=main,
            child_pid=child or None,
        )
        why = self._not_ours(child, main) or self._unmet(task_id, point)
        if fault.victim == "child" and not child:
            why = f"{point} is a point of the main process"
        if sign is None and self._disturbance is None and fault is not Fault.OUT_OF_MEMORY:
            why = why or "this fault sends no signal"
        if fault.once_per_cell:
            self.held.set()
            self.released.wait()
            line.sendall(GO_ON)
        elif why:
            line.sendall(GO_ON)
            self.report(task_id, replace(report, why=why))
        elif self._disturbance is not None:
            self._disturb(self._disturbance, line, task_id, report, sign)
        elif sign is not None:
            self._signal(line, task_id, report, sign)
        else:
            self._exhaust(line, task_id, report)

    def _signal(self, line: socket.socket, task_id: str, report: FaultReport, sign: signal.Signals) -> None:
        """Send the signal to a process of ours, and report its death."""
        fault, main, child = self.fault, report.main_pid or 0, report.child_pid or 0
        with contextlib.ExitStack() as held:
            main_fd = held.enter_context(pidfd(main))
            child_fd = held.enter_context(pidfd(child)) if child else main_fd
            if fault is Fault.STOP:
                return self._pause(line, task_id, report, child_fd)
            if fault.victim == "group":
                os.killpg(main, sign)
            else:
                signal.pidfd_send_signal(child_fd if fault.victim == "child" else main_fd, sign)
            if fault is Fault.TERM:
                line.sendall(GO_ON)  # warm: the running body may finish
                if ended(main_fd):
                    return self.report(task_id, replace(report, injected=True, died="warm shutdown"))
                return self.report(task_id, replace(report, why=f"main did not end within {DEATH_SECONDS:.0f} s"))
            if ended(child_fd) and (fault.victim == "child" or ended(main_fd)):
                # The victim was held at its point until it died: it cannot have gone on.
                return self.report(task_id, replace(report, injected=True, died=sign.name))
            line.sendall(GO_ON)
            return self.report(task_id, replace(report, why=f"no death within {DEATH_SECONDS:.0f} s of the signal"))

    def _exhaust(self, line: socket.socket, task_id: str, report: FaultReport) -> None:
        """Have an allocation of the victim fail, and report it before the victim deals with that."""
        line.sendall(NO_MEMORY)
        failed = line.recv(1) == FAILED
        self.report(task_id, replace(report, injected=failed, why="" if failed else "the memory was enough"))
        line.sendall(GO_ON)

    def _disturb(
        self,
        what: FaultProxy | WallClock,
        line: socket.socket,
        task_id: str,
        report: FaultReport,
        sign: signal.Signals | None,
    ) -> None:
        """Disturb connections or clock while the victim is held; send the signal, if there is one, while they are disturbed.

        Without a signal, what lasts is reported when it has ended: only then it is known whether anybody noticed.
        """
        with what.lock:
            number = what.begin(task_id)
            report = replace(report, connections=number if isinstance(what, FaultProxy) else None)
            if not number:
                what.heal()
                line.sendall(GO_ON)
                self.report(task_id, replace(report, why="no connection of a worker was open"))
            elif sign is not None or self.fault is Fault.OUT_OF_MEMORY:
                healing = threading.Thread(target=self._heal_in_time, args=(what,), name="nemesis-healing")
                healing.start()  # a warm shutdown may take longer than the disturbance
                if sign is not None:
                    self._signal(line, task_id, report, sign)
                else:
                    self._exhaust(line, task_id, report)
                healing.join()
            elif not what.seconds:
                self.report(task_id, replace(report, injected=True))
                line.sendall(GO_ON)
            else:
                began = time.monotonic()
                self._closing.wait(what.held_seconds)
                what.release(line)
                why, lasted = self._heal_in_time(what), round(time.monotonic() - began, 3)
                self.report(task_id, replace(report, injected=not why, why=why, seconds=lasted))

    def _heal_in_time(self, what: FaultProxy | WallClock) -> str:
        what.wait_until_over(self._closing)
        return what.heal()

    def kill_now(self, main: int) -> str:
        """SIGKILL a main process, wherever it is, and return when it is dead: why that could not be done, or ""."""
        if why := self._not_ours(0, main):
            return why
        with pidfd(main) as descriptor:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            return "" if ended(descriptor) else f"no death within {DEATH_SECONDS:.0f} s of the signal"

    def _pause(self, line: socket.socket, task_id: str, report: FaultReport, descriptor: int) -> None:
        """Stop the process, release it from its point meanwhile, and continue it after the pause: it acts too late.

        Reported before it continues: afterwards it may be at its next job before the report is written.
        """
        child = report.pid or 0
        try:
            stopped = stop(child, descriptor)
            line.sendall(GO_ON)
            self._closing.wait(self._pause_seconds)  # the fault itself
            injected = stopped and is_stopped(child)
            why = "" if injected else "the process was not stopped all the time"
            self.report(task_id, replace(report, injected=injected, why=why, seconds=self._pause_seconds))
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

    def _unmet(self, task_id: str, point: str) -> str:
        """Wait for the precondition; return what is still missing in the end, or ""."""
        if self._precondition is None:
            return ""
        deadline = time.monotonic() + PRECONDITION_SECONDS
        while missing := self._precondition(task_id, point):
            if self._closing.wait(0.005) or time.monotonic() > deadline:
                return f"{missing} within {PRECONDITION_SECONDS:.0f} s"
        return ""
