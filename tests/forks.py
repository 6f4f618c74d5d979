"""Start programs as forks of one interpreter that has already imported Django, Celery and the broker's clients.

A start of ``manage.py`` or of a worker takes two seconds of a core, half of them for these imports, and the suite starts
hundreds. What is started here is a process of its own, with its own environment, folder, streams and session; only the
imports are shared. Nothing of this project is imported beforehand.

Does not do what depends on an option of the interpreter (``-W``) or on a variable that it reads at its start
(PYTHONIOENCODING, LC_ALL, LD_PRELOAD, …): then ``run`` and ``spawn`` start a new interpreter. PYTHONPATH is honoured.

``adopt`` does the same for the interpreters that the project itself starts: banks, and templates of the lab's workers.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_")
#: What is forked of that which the project starts itself (``adopt``).
_ADOPTED = (["-m", "django", "bank"], ["-m", "tasks_demo.lab.processes.template"])
_PATH = "PYTHONPATH"
_SERVER = Path(__file__).with_name("forked.py")
_MOST_BYTES = 1 << 17


class Child:
    """A forked process, as far as the suite uses a subprocess.Popen."""

    def __init__(self, server: Server, pid: int, args: Sequence[str]) -> None:
        self.pid, self.args, self.returncode = pid, list(args), None
        self._server = server

    returncode: int | None

    def poll(self) -> int | None:
        """The exit code as in subprocess, or None while it runs."""
        if self.returncode is None:
            try:
                self.returncode = self._server.ask({"reap": self.pid})["status"]
            except OSError:  # the interpreter that was forked has ended, and this process with it
                self.returncode = -signal.SIGKILL
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        with contextlib.suppress(ProcessLookupError):
            if self.returncode is None:
                watch = os.pidfd_open(self.pid)
                try:
                    select.select([watch], [], [], timeout)
                finally:
                    os.close(watch)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code


class Server:
    """The interpreter that is forked. Start it in the main thread: it is killed when that thread ends."""

    def __init__(self, control: socket.socket, pid: int, end: Callable[[], None]) -> None:
        self.env = dict(os.environ)
        self._lock = threading.Lock()
        self._socket, self.pid, self._end = control, pid, end

    @classmethod
    def started(cls) -> Server:
        """One in a new interpreter."""
        from tasks_demo.demo.stack.processes import spawn

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, str(_SERVER), str(theirs.fileno())]
            bare = {name: value for name, value in os.environ.items() if name != _PATH}
            process = spawn(command, env=bare, pass_fds=[theirs.fileno()])
        return cls(ours, process.pid, process.kill)

    def forks(self, arguments: Sequence[str], env: Mapping[str, str]) -> bool:
        """Whether a fork does with these what a new interpreter does."""
        names = {name for name in {*env, *self.env} if name.startswith(_READ_AT_START)} - {_PATH}
        return not arguments[0].startswith("-W") and all(env.get(name) == self.env.get(name) for name in names)

    def start(
        self,
        arguments: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        streams: Sequence[int],
        pass_fds: Sequence[int] = (),
    ) -> Child:
        """``pass_fds``: further descriptors, which have the same numbers there."""
        asked = {"run": list(arguments), "cwd": str(cwd), "env": dict(env), "pass": list(pass_fds)}
        return Child(self, self.ask(asked, [*streams, *pass_fds])["pid"], [sys.executable, *arguments])

    def ask(self, asked: dict[str, Any], descriptors: Sequence[int] = ()) -> dict[str, Any]:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(asked).encode()], descriptors)
            answer = self._socket.recv(_MOST_BYTES)
        if not answer:
            raise ConnectionResetError("the interpreter that is forked has ended")
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        """End it, and with it whatever still runs of what it started."""
        self._socket.close()
        self._end()


_server: Server | None = None


def server() -> Server | None:
    """The server of this process, started on first use; None in a thread that cannot start it."""
    global _server
    if _server is None and threading.current_thread() is threading.main_thread():
        _server = Server.started()
    return _server


def pid() -> int:
    """The server's process; 0: none was needed."""
    return _server.pid if _server is not None else 0


def close() -> None:
    """End the server."""
    global _server
    if _server is not None:
        _server.close()
        _server = None


def start(arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], streams: Sequence[int]) -> Any:
    """Start ``python ARGUMENTS`` in a session of its own: a Child, or a subprocess.Popen.

    ``streams``: the descriptors of its standard input, output and error.
    """
    ours = server()
    if ours is not None and ours.forks(arguments, env):
        return ours.start(arguments, cwd, env, streams)
    stdin, out, err = streams
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=dict(env),
        stdin=stdin,
        stdout=out,
        stderr=err,
        start_new_session=True,
    )


def run(arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float) -> tuple[int, str, str]:
    """Run ``python ARGUMENTS`` until it exits; exit code and output. It is killed, and the test fails, after ``timeout`` s."""
    with open(os.devnull) as nothing, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        files = (nothing, out, err)
        child = start(arguments, cwd=cwd, env=env, streams=[file.fileno() for file in files])
        try:
            code, late = child.wait(timeout), ""
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            code, late = child.wait(10), f"not finished within {timeout:g} s; it had said:\n"
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
    assert not late, late + "\n".join(said)
    return code, said[0], said[1]


def spawn(arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path) -> Any:
    """Start ``python ARGUMENTS`` as a process of the embedded stack, which ends with this one and is stopped as a group.

    Its output is appended to ``log``.
    """
    from tasks_demo.demo.stack import processes

    ours = server()
    if ours is None or not ours.forks(arguments, env):
        return processes.spawn([sys.executable, *arguments], log=log, env=env, cwd=cwd)
    with open(os.devnull) as nothing, log.open("ab") as file:
        return processes.Process(ours.start(arguments, cwd, env, [nothing.fileno(), file.fileno(), file.fileno()]))


def adopt(lent: Server | None = None) -> None:
    """Start banks, and templates of the lab's workers, as forks too. ``lent``: the server; else the one of this process."""
    from tasks_demo.demo.stack import bank, processes

    global _server
    _server = lent or _server
    start_anew = processes.spawn

    def spawn(
        argv: Sequence[str], *, log: Path | None = None, env: Mapping[str, str] | None = None, **options: Any
    ) -> processes.Process:
        program, *arguments = argv
        if program == sys.executable and log and any(arguments[: len(known)] == known for known in _ADOPTED):
            ours, whole = server(), dict(os.environ if env is None else env)
            if ours is not None and ours.forks(arguments, whole):
                with open(os.devnull) as nothing, open(processes._open_log(log), "ab") as file:
                    streams = [nothing.fileno(), file.fileno(), file.fileno()]
                    return processes.Process(ours.start(arguments, Path.cwd(), whole, streams, **options))  # type: ignore[arg-type]
        return start_anew(argv, log=log, env=env, **options)

    processes.spawn = bank.spawn = spawn
