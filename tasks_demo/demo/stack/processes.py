"""Start child processes that do not outlive this process.

``spawn`` starts a command in a new session and process group, so that a Ctrl-C in the terminal does not reach it: this process
ends it in the order that it chooses, with ``Process.stop`` or, at the latest, at exit.

On Linux the kernel kills the child when this process dies, even of SIGKILL. Does **not** guarantee:

* That the child's own children end when the kernel kills it: each server must ensure that itself (Celery's pool does).
* Any of this on macOS and the BSDs, which have no such signal: there the child ends at this process's normal exit, on Ctrl-C,
  SIGTERM and SIGHUP, but survives a SIGKILL or a crash of the interpreter. The lock of ``EmbeddedRedis`` then has the pid of the
  process that started it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

import psutil

from tasks_demo.core.exceptions import EnvironmentNotReady

_DIE_WITH_PARENT = Path(__file__).with_name("die_with_parent.py")
_LINUX = sys.platform.startswith("linux")
_POLL_SECONDS = 0.01
#: Time for a process to end after SIGTERM, unless another is given, seconds.
_STOP_SECONDS = 5.0
#: Maximum time for the kernel to end a process after SIGKILL, seconds.
_REAP_SECONDS = 10.0

_running: set[Process] = set()


class Process:
    """A child process. ``pid`` together with ``start_time`` (seconds since the epoch) identifies it."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self._owner = os.getpid()
        self.pid: int = popen.pid
        # Cannot fail: a dead child keeps its entry until it is reaped, and only this object reaps it.
        self.start_time: float = psutil.Process(self.pid).create_time()
        _running.add(self)

    def __repr__(self) -> str:
        return f"<Process {self.pid} {self._popen.args!r}>"

    @property
    def returncode(self) -> int | None:
        """The exit code as in subprocess (negative: ended by that signal); None until ``stop`` or ``kill`` has reaped it."""
        return self._popen.returncode

    def alive(self) -> bool:
        """Return True while it runs, or is stopped by SIGSTOP. A zombie is dead, and so is a process whose pid was reused."""
        if self._ours() and self.returncode is not None:
            return False
        try:
            seen = psutil.Process(self.pid)
            return seen.create_time() == self.start_time and not _dead(seen)
        except psutil.NoSuchProcess:
            return False

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is dead; False if it is still alive after that many seconds. Does not reap."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self.alive():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            self._await_end(left)
        return True

    def _await_end(self, seconds: float | None) -> None:
        """Return when it has ended, after the timeout, or earlier; the caller must check again."""
        try:
            watch = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # not Linux, an old kernel, or a sandbox that forbids it
            time.sleep(_POLL_SECONDS if seconds is None else min(_POLL_SECONDS, seconds))
            return
        try:
            select.select([watch], [], [], seconds)
        finally:
            os.close(watch)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM), without waiting.

        Only the group's leader gets the signal: a Celery main process needs its pool to finish its tasks.
        """
        if self._ours() and self.alive():
            os.kill(self.pid, signal.SIGTERM)

    def stop(self, seconds: float = _STOP_SECONDS) -> None:
        """Send SIGTERM, wait that many seconds, then send SIGKILL to what is left of the group, and reap it."""
        if self._ours():
            self.terminate()
            self.wait(seconds)
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL to the whole group; return when it is dead and reaped. Idempotent. Does nothing in a forked process.

        Raises subprocess.TimeoutExpired if the kernel does not end it within 10 s (a process stuck in a system call).
        """
        if not self._ours():
            return
        if self.returncode is None:
            # The leader is not reaped yet, so its pid cannot have been reused by another group.
            # macOS returns EPERM for a group that consists of a zombie only.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait(_REAP_SECONDS)
            self._await_group()
        _running.discard(self)

    def _await_group(self) -> None:
        """Return when the rest of the killed group is dead, too: until then it may have sockets and files open."""
        deadline = time.monotonic() + _REAP_SECONDS
        while _group_lives(self.pid) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def _ours(self) -> bool:
        return self._owner == os.getpid()


def spawn(
    argv: Sequence[str],
    *,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    output: int | None = None,
    cwd: Path | None = None,
) -> Process:
    """Start ``argv`` so that it ends when this process ends. Call it from the main thread only.

    The kernel sends the death signal when the *thread* that forked exits, not the process: a child started from a short-lived
    thread would be killed early. So calls from other threads raise RuntimeError.

    :param log: file to which stdout and stderr are appended (created with mode 600). Without it they go to ``output`` (a file
        descriptor), or to this process's stderr: never to its stdout, which is for results.
    :param env: the whole environment of the child; None: that of this process.
    :raises EnvironmentNotReady: the command does not exist or is not executable.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("spawn() must be called from the main thread: the child is killed when its thread ends.")
    environment = dict(os.environ if env is None else env)
    program = shutil.which(argv[0], path=environment.get("PATH"))
    if program is None:
        raise EnvironmentNotReady(f"{argv[0]} is not installed or not executable: nothing was started.")
    command = [program, *argv[1:]]
    if _LINUX:
        command = [sys.executable, "-I", "-S", str(_DIE_WITH_PARENT), str(os.getpid()), *command]
    else:
        _exit_on_signals()
    target = _open_log(log) if log else None
    try:
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=target if target is not None else (2 if output is None else output),
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=cwd,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    finally:
        if target is not None:
            os.close(target)
    return Process(popen)


def project_environment() -> dict[str, str]:
    """Return an environment in which ``python -m`` finds this process's modules and settings."""
    from django.conf import settings

    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    # Overridden settings (in a test) have no module of their own, and those of the lab without a project have none at all.
    module = getattr(settings, "SETTINGS_MODULE", None) or os.environ.get("DJANGO_SETTINGS_MODULE")
    return {**os.environ, "PYTHONPATH": paths, **({"DJANGO_SETTINGS_MODULE": module} if module else {})}


def stop_all() -> None:
    """Stop everything that this process spawned and has not stopped: SIGTERM to all first, then wait for them."""
    for process in list(_running):
        process.terminate()
    deadline = time.monotonic() + _STOP_SECONDS
    for process in list(_running):
        process.stop(max(0.0, deadline - time.monotonic()))


def _dead(process: psutil.Process) -> bool:
    """Return True for a zombie without threads: while one of its threads is still ending, its sockets and files are open."""
    return process.status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD} and process.num_threads() <= 1


def _group_lives(group: int) -> bool:
    """Return True if a member of the process group runs. A zombie that is not reaped yet does not run."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and not _dead(process):
                return True
    return False


def _open_log(log: Path) -> int:
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def _exit_on_signals() -> None:
    """Turn SIGTERM and SIGHUP into an exit, so that atexit runs, on systems whose kernel has no death signal."""

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, leave)


def _disown() -> None:
    """Forget the parent's children, in a forked process. Otherwise their destructors would warn that they still run."""
    for process in _running:
        process._popen.returncode = 0
    _running.clear()


atexit.register(stop_all)
os.register_at_fork(after_in_child=_disown)
