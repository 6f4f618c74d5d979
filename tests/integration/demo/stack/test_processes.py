"""Child processes end with their parent: real processes, real kills."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.stack import Process, processes, spawn, stop_all
from tests.support import until

BOUND_SECONDS = 20.0
STUBBORN = (
    "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(300)"
)
POLITE = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("ready", flush=True)
signal.pause()
"""
FAMILY = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", sys.argv[1]]).pid, flush=True)
time.sleep(300)
"""


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def said(log: Path, word: str) -> str:
    until(lambda: log.exists() and word in log.read_text(), f"{word!r} in {log.name}")
    return log.read_text()


@pytest.fixture
def python(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(code: str, *arguments: str) -> Process:
        process = spawn([sys.executable, "-c", code, *arguments], log=tmp_path / "log")
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def parent_of(code: str) -> tuple[subprocess.Popen[str], int]:
    """Start a process that runs ``code``, which spawns one child and prints its pid; return both."""
    script = "import signal, sys\nfrom tasks_demo.demo.stack import spawn\n" + textwrap.dedent(code)
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings", "PYTHONPATH": str(Path.cwd())},
    )
    assert parent.stdout is not None
    assert select.select([parent.stdout], [], [], BOUND_SECONDS)[0], "the parent said nothing"
    return parent, int(parent.stdout.readline())


@pytest.mark.parametrize("fatal", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV])
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a death signal")
def test_spawn_child_ends_when_the_parent_ends(fatal: signal.Signals) -> None:
    parent, child = parent_of("print(spawn(['sleep', '300']).pid, flush=True)\nsignal.pause()")
    with parent:
        assert not gone(child)
        parent.send_signal(fatal)
        parent.wait(BOUND_SECONDS)
    until(lambda: gone(child), f"the child ends after {fatal.name} of its parent")


def test_spawn_child_is_stopped_at_exit() -> None:
    parent, child = parent_of("print(spawn(['sleep', '300']).pid, flush=True)")
    with parent:
        assert parent.wait(BOUND_SECONDS) == 0
    assert gone(child)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a death signal")
def test_spawn_child_whose_parent_is_gone_does_not_start() -> None:
    stranger = 1 if os.getpid() != 1 else 2
    shim = Path(processes.__file__).with_name("die_with_parent.py")
    done = subprocess.run([sys.executable, "-I", "-S", str(shim), str(stranger), "echo", "alive"], capture_output=True)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")


def test_spawn_is_refused_outside_the_main_thread() -> None:
    raised: list[BaseException] = []

    def attempt() -> None:
        try:
            spawn(["sleep", "300"])
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0])


def test_spawn_gives_the_child_its_own_session(python: Callable[..., Process]) -> None:
    process = python("import time; time.sleep(300)")
    assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid != os.getsid(0)


def test_stop_lets_the_child_end_on_sigterm(python: Callable[..., Process], tmp_path: Path) -> None:
    process = python(POLITE)
    said(tmp_path / "log", "ready")
    process.stop(BOUND_SECONDS)
    assert (process.returncode, process.alive()) == (7, False)


def test_stop_kills_a_child_that_ignores_sigterm(python: Callable[..., Process], tmp_path: Path) -> None:
    process = python(STUBBORN)
    said(tmp_path / "log", "deaf")
    began = time.monotonic()
    process.stop(0.2)
    assert 0.2 <= time.monotonic() - began < BOUND_SECONDS
    assert process.returncode == -signal.SIGKILL
    process.stop()  # the second time nothing happens


def test_stop_ends_the_whole_group(python: Callable[..., Process], tmp_path: Path) -> None:
    process = python(FAMILY, STUBBORN)
    log = tmp_path / "log"
    until(lambda: len(log.read_text().split()) == 2, "the pid from the child, the word from the grandchild")
    (grandchild,) = (int(word) for word in log.read_text().split() if word != "deaf")
    assert not gone(grandchild)
    process.stop(5)
    assert gone(grandchild)


def test_alive_after_sigstop_and_stop_ends_it(python: Callable[..., Process]) -> None:
    process = python("import time; time.sleep(300)")
    os.kill(process.pid, signal.SIGSTOP)
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "it stands still")
    assert process.alive()
    process.stop(0.1)
    assert not process.alive()


def test_alive_is_false_for_a_zombie(python: Callable[..., Process]) -> None:
    process = python("raise SystemExit(3)")
    assert process.wait(BOUND_SECONDS)
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    assert not process.alive()
    process.kill()
    assert process.returncode == 3
    assert not psutil.pid_exists(process.pid)


def test_wait_is_bounded(python: Callable[..., Process]) -> None:
    assert python("import time; time.sleep(300)").wait(0.05) is False


def test_alive_compares_pid_and_start_time(python: Callable[..., Process]) -> None:
    process = python("import time; time.sleep(300)")
    assert process.start_time == psutil.Process(process.pid).create_time()
    true_start, process.start_time = process.start_time, process.start_time - 60.0
    assert not process.alive()
    process.start_time = true_start


def test_stop_all_in_a_fork_leaves_the_children_alone(python: Callable[..., Process]) -> None:
    process = python("import time; time.sleep(300)")
    fork = os.fork()
    if fork == 0:
        try:
            stop_all()
            process.kill()
        finally:
            os._exit(0)
    os.waitpid(fork, 0)
    assert process.alive()
    assert not process.wait(0.2)


def test_stop_all_stops_all(python: Callable[..., Process], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_running", set())  # this test must not stop the session's Redis and bank
    mine = [python("import time; time.sleep(300)") for _ in range(2)]
    stop_all()
    assert [process.alive() for process in mine] == [False, False]


def test_spawn_appends_output_to_a_log_of_mode_600(python: Callable[..., Process], tmp_path: Path) -> None:
    for word in ("one", "two"):
        python(f"import sys; print({word!r}, file=sys.stderr)").wait(BOUND_SECONDS)
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_spawn_without_a_log_writes_nothing_to_our_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    process = spawn([sys.executable, "-c", "print('chatter')"])
    process.wait(BOUND_SECONDS)
    process.stop()
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "chatter\n")


def test_spawn_passes_descriptors_and_environment(tmp_path: Path) -> None:
    with (tmp_path / "handed").open("w") as file:
        code = "import os, sys; os.write(int(sys.argv[1]), os.environ['WORD'].encode())"
        environment = {**os.environ, "WORD": "hello"}
        process = spawn([sys.executable, "-c", code, str(file.fileno())], env=environment, pass_fds=[file.fileno()])
        process.wait(BOUND_SECONDS)
        process.stop()
    assert (tmp_path / "handed").read_text() == "hello"


def test_spawn_of_a_missing_command_raises_environment_not_ready(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotReady, match="no-such-command is not installed"):
        spawn(["no-such-command"], log=tmp_path / "log")


HOLDER = """
import os, sys, threading, time
if os.fork() == 0:
    for _ in range(20):
        threading.Thread(target=time.sleep, args=(300,)).start()
    print("holding", flush=True)
time.sleep(300)
"""


def test_kill_returns_when_no_socket_of_the_group_is_open(tmp_path: Path) -> None:
    """A dying process with threads looks like a zombie before it has closed its files."""
    for attempt in range(15):
        log = tmp_path / f"log{attempt}"
        with socket.create_server(("127.0.0.1", 0)) as listening:
            address = listening.getsockname()
            process = spawn([sys.executable, "-c", HOLDER], log=log, pass_fds=[listening.fileno()])
        try:
            said(log, "holding")
            socket.create_connection(address, timeout=5).close()
        finally:
            process.kill()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=5).close()
