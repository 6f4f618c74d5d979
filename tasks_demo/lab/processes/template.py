"""A process that has imported everything and forks workers on request, so that one is consuming in about 0.2 s.

``TemplateClient`` is the lab's side: it starts ``python -m tasks_demo.lab.processes.template`` and asks it for workers over a
socket, one JSON object a line: ``{"fork": spec}`` is answered by ``{"forked": id, "pid": pid}``, and
``{"exit": pid, "status": code}`` follows when that worker has ended (negative: the signal that ended it).
``{"terminate": pid}`` sends SIGTERM to a worker unless it has ended. When the socket closes, the template kills
the process groups of its workers and ends: what a task started and left running, too, after its worker has died. When the
template dies, its workers die with it (PR_SET_PDEATHSIG).

Does **not** end a program that a task started in a session of its own, and none if the template is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import psutil

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.lab.processes.specs import WorkerSpec

#: Maximum time to wait for the imports, or for a fork, on a busy machine, seconds.
REPLY_SECONDS = 60.0
#: Maximum number of ended workers left unreaped: their pids, which are the IDs of their groups, are then nobody else's.
_UNREAPED = 100


class TemplateClient:
    """The lab's side. Start it from the main thread: its death signal follows the thread that started it."""

    def __init__(self, log: Path, place: str = "", variables: Mapping[str, str] | None = None) -> None:
        """``place``: the scratch database of this run, see ``use_database``; empty: the project's own tables. ``variables``: of
        its environment, beside those of this process."""
        from tasks_demo.demo.stack.processes import project_environment, spawn

        ours, theirs = socket.socketpair()
        with theirs:
            self.process = spawn(
                [sys.executable, "-m", "tasks_demo.lab.processes.template", str(theirs.fileno()), place],
                log=log,
                pass_fds=(theirs.fileno(),),
                env={**project_environment(), **(variables or {})},
            )
        self._socket = ours
        self._log = log
        self._send_lock = threading.Lock()
        self._number = 0
        self._replies: dict[int, Queue[dict[str, Any]]] = {}
        self._exits: dict[int, Callable[[int], None]] = {}
        self._early_exits: dict[int, int] = {}
        self._lock = threading.Lock()
        self._ready: Queue[dict[str, Any]] = Queue()
        self._reader = threading.Thread(target=self._read, name="template", daemon=True)
        self._reader.start()

    def wait_ready(self) -> None:
        """Return when the template has imported everything. Raises EnvironmentNotReady with the end of its log if it cannot."""
        try:
            answer = self._ready.get(timeout=REPLY_SECONDS)
        except Empty:
            answer = {}
        if not answer.get("ready"):
            tail = self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""
            raise EnvironmentNotReady(f"The lab's worker template did not start. The end of its log:\n{tail}")

    def fork(self, spec: WorkerSpec, on_exit: Callable[[int], None]) -> int:
        """Fork a worker and return its pid. ``on_exit`` is called once, from another thread, with its status."""
        with self._lock:
            self._number += 1
            number = self._number
            reply: Queue[dict[str, Any]] = Queue()
            self._replies[number] = reply
        self._send({"fork": spec.as_dict(), "id": number})
        try:
            answer = reply.get(timeout=REPLY_SECONDS)
        except Empty:
            raise EnvironmentNotReady("The lab's worker template does not answer.") from None
        pid = answer.get("pid")
        if pid is None:
            raise EnvironmentNotReady("The lab's worker template has ended.")
        with self._lock:
            if pid not in self._early_exits:
                self._exits[pid] = on_exit
                return int(pid)
            status = self._early_exits.pop(pid)
        on_exit(status)
        return int(pid)

    def terminate(self, pid: int) -> None:
        """Send SIGTERM to a worker; do nothing if it has ended.

        Only the template can do that safely: it reaps its workers, so it knows whether the pid is still theirs.
        """
        self._send({"terminate": pid})

    def kill(self, pid: int) -> None:
        """SIGKILL a worker and its pool; do nothing if it has ended."""
        self._send({"kill": pid})

    def close(self) -> None:
        """End the template and every worker that still runs."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.process.stop(5)
        self._socket.close()

    def _send(self, message: dict[str, Any]) -> None:
        with self._send_lock:
            try:
                self._socket.sendall(json.dumps(message).encode() + b"\n")
            except OSError as error:
                raise EnvironmentNotReady("The lab's worker template has ended.") from error

    def _read(self) -> None:
        try:
            with self._socket.makefile("rb") as lines:
                for line in lines:
                    self._handle(json.loads(line))
        except OSError:
            pass  # the socket was closed: the same as its end
        with self._lock:
            replies = list(self._replies.values())
        self._ready.put({})
        for waiting in replies:
            waiting.put({})

    def _handle(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self._ready.put(message)
        elif "forked" in message:
            with self._lock:
                self._replies.pop(message["forked"]).put(message)
        elif "exit" in message:
            with self._lock:
                on_exit = self._exits.pop(message["exit"], None)
                if on_exit is None:
                    self._early_exits[message["exit"]] = message["status"]
            if on_exit is not None:
                on_exit(message["status"])


def main(descriptor: int, place: str) -> None:
    """The template process: import, then fork on request until the socket closes."""
    from tasks_demo.lab.processes.setup import set_up

    set_up()
    from tasks_demo.lab.processes import worker

    if place:
        from tasks_demo.lab.processes.databases import use_database

        use_database(place)
    worker.preload()
    control = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    # Both are read from the pipe: SIGTERM may come while the groups are killed.
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the experiment, which closes the socket
    control.sendall(b'{"ready": true}\n')
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(wake_read, selectors.EVENT_READ)
    workers: set[int] = set()
    ended: list[int] = []
    buffer = b""
    try:
        while True:
            for key, _ in selector.select():
                if key.fileobj is control:
                    chunk = control.recv(65536)
                    if not chunk:
                        return
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        request = json.loads(line)
                        if "fork" in request:
                            _fork(request, control, workers, (selector.fileno(), wake_read, wake_write))
                        elif request.get("terminate") in workers:  # not reaped: the pid is still its own
                            os.kill(request["terminate"], signal.SIGTERM)
                        elif request.get("kill") in workers:
                            os.killpg(request["kill"], signal.SIGKILL)  # it has called setsid
                elif signal.SIGTERM in os.read(wake_read, 4096):
                    return
            _report_ended(control, workers, ended)
    except (BrokenPipeError, ConnectionResetError):
        return
    finally:
        for pid in (*workers, *ended):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)


def _fork(request: dict[str, Any], control: socket.socket, workers: set[int], descriptors: tuple[int, ...]) -> None:
    from tasks_demo.lab.processes import worker

    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            control.close()
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            status = worker.run(WorkerSpec.from_dict(request["fork"]), parent)
        except BaseException:  # noqa: BLE001  (the last frame of this process: report, then leave without the parent's clean-up)
            sys.excepthook(*sys.exc_info())
            status = 70
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    workers.add(pid)
    control.sendall(json.dumps({"forked": request["id"], "pid": pid}).encode() + b"\n")


def _report_ended(control: socket.socket, workers: set[int], ended: list[int]) -> None:
    """Move each worker that has ended to ``ended``, and say so. When there are many, those are reaped whose groups are empty."""
    for pid in list(workers):
        if (found := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is None:
            continue
        workers.discard(pid)
        ended.append(pid)
        status = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        control.sendall(json.dumps({"exit": pid, "status": status}).encode() + b"\n")
    if len(ended) > _UNREAPED:
        sizes: Counter[int] = Counter()
        for process in psutil.pids():
            with contextlib.suppress(ProcessLookupError):
                sizes[os.getpgid(process)] += 1
        for pid in [pid for pid in ended if sizes[pid] == 1]:  # itself
            os.waitpid(pid, 0)
            ended.remove(pid)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
