"""``manage.py up``: the whole stack, stopped in every way, and the processes it consists of."""

from __future__ import annotations

import http.client
import io
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.stack.up import LIVED_SECONDS, Formation
from tests.support import free_port, living, until

ROOT = Path(__file__).resolve().parents[4]
BOUND_SECONDS = 100.0
OURS = ("REDIS_URL", "BROKER_URL", "BANK_URL", "DATABASE_URL", "BANK_DATABASE_URL", "DJANGO_PRODUCTION")


class Up:
    """A running ``manage.py up`` and its output."""

    def __init__(self, state: Path, port: int | None = None) -> None:
        self.port = port or free_port()
        environment = {name: value for name, value in os.environ.items() if name not in OURS}
        self.popen = subprocess.Popen(
            [sys.executable, "manage.py", "up", "--port", str(self.port)],
            cwd=ROOT,
            env={**environment, "STATE_DIR": str(state)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.said.append(line)

    def wait_for(self, words: str) -> None:
        try:
            until(lambda: any(words in line for line in self.said), repr(words), BOUND_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}; it said:\n{''.join(self.said)}") from None

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.popen.pid).children(recursive=True)

    def end(self) -> None:
        self.popen.kill()
        self.popen.wait()
        self._reader.join(BOUND_SECONDS)
        assert self.popen.stdout is not None
        self.popen.stdout.close()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path)
    try:
        running.wait_for("Password:")
        yield running
    finally:
        running.end()


def _answers(up: Up, state: Path) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", up.port, timeout=BOUND_SECONDS)
    connection.request("GET", "/admin/login/")
    assert connection.getresponse().status == 200
    connection.close()
    password = (state / "admin_password").read_text().strip()
    assert f"Password:  {password}\n" in up.said
    assert len(password) >= 20
    assert (state / "admin_password").stat().st_mode & 0o777 == 0o600


def _ends_with_all_its_processes(up: Up, fatal: signal.Signals, code: int) -> None:
    up.wait_for(" ready.")
    family = up.family()
    # Redis and its command, bank, worker and its pool of two, web and its worker.
    assert len(family) >= 8, family
    up.popen.send_signal(fatal)
    assert up.popen.wait(BOUND_SECONDS) == code
    until(lambda: not living(family), f"the end of all its processes after {fatal.name}")


def _says_how_to_log_in_as_its_last_lines(up: Up, state: Path) -> None:
    until(lambda: any("admin_user" in line for line in up.said), "the end of what it prints")
    said = list(up.said)
    block = next(number for number, line in enumerate(said) if "All is running" in line)
    before = "".join(said[:block])
    assert " ready." in before, "the worker's start is above it"
    assert "Password:" not in before
    assert not [line for line in said[block:] if "|" in line], "the log does not interrupt it"
    # The last of the lines is a command that prints them again.
    again = shlex.split(next(line for line in said[block:] if "admin_user" in line).partition("terminal: ")[2])
    environment = {name: value for name, value in os.environ.items() if name not in OURS}
    shown = subprocess.run(
        again, cwd=ROOT, env={**environment, "STATE_DIR": str(state)}, capture_output=True, text=True, check=True
    )
    assert shown.stdout in "".join(said[block:])
    password = (state / "admin_password").read_bytes().strip()
    assert password.decode() in shown.stdout
    written = [path for path in state.rglob("*") if path.is_file() and path.name != "admin_password"]
    assert not [path for path in written if password in path.read_bytes()]


def _says_what_runs_already_and_starts_nothing(up: Up, state: Path) -> None:
    for other, port, sentence in (
        (state, free_port(), "is running already, so nothing was started. Is there another `make up`?"),
        (state / "other", up.port, f"port {up.port} (Address already in use), so nothing was started."),
    ):
        second = Up(other, port)
        try:
            assert second.popen.wait(BOUND_SECONDS) == 4
            second.wait_for(sentence)
            assert len(second.said) == 1, second.said
        finally:
            second.end()
    assert up.popen.poll() is None


# A start takes several seconds of a core, so each test asks one stack for several things.


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a death signal")
def test_up_prints_how_to_log_in_and_ends_by_ctrl_c(up: Up, tmp_path: Path) -> None:
    _answers(up, tmp_path)
    _says_how_to_log_in_as_its_last_lines(up, tmp_path)
    _says_what_runs_already_and_starts_nothing(up, tmp_path)
    _ends_with_all_its_processes(up, signal.SIGINT, 130)
    up.wait_for("all stopped")
    text = "".join(up.said)
    assert "Warm shutdown" in text
    assert "Connection" not in text.partition("Warm shutdown")[2], "the worker may finish before Redis goes"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a death signal")
def test_up_that_is_killed_leaves_no_process(up: Up, tmp_path: Path) -> None:
    _answers(up, tmp_path)
    _ends_with_all_its_processes(up, signal.SIGKILL, -9)


def test_up_starts_a_killed_worker_again_and_ends_by_sigterm(up: Up, tmp_path: Path) -> None:
    _answers(up, tmp_path)
    up.wait_for(" ready.")
    until(lambda: sum(" ready." in line for line in up.said) == 1, "the first worker")
    worker = next(each for each in up.family() if "worker" in each.cmdline() and each.ppid() == up.popen.pid)
    until(lambda: time.time() - worker.create_time() > LIVED_SECONDS, "a worker that is no longer new")
    worker.kill()
    up.wait_for("worker was killed by SIGKILL and is started again")
    until(lambda: sum(" ready." in line for line in up.said) == 2, "the next worker")
    _ends_with_all_its_processes(up, signal.SIGTERM, 0)


def test_formation_ends_when_one_process_is_killed_again_and_again(tmp_path: Path) -> None:
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    formation = Formation({"killed": killed}, last=[], cwd=tmp_path, output=io.StringIO())
    with pytest.raises(EnvironmentNotReady, match=r"killed exited unexpectedly \(code -9\)"):
        formation.run({})


def test_formation_ends_when_one_process_ends(tmp_path: Path) -> None:
    shown = io.StringIO()
    commands = {
        "needed": ["sleep", "300"],
        "short": [sys.executable, "-c", "print('last words'); raise SystemExit(3)"],
    }
    formation = Formation(commands, last=["needed"], cwd=tmp_path, output=shown)
    with pytest.raises(EnvironmentNotReady, match=r"short exited unexpectedly \(code 3\)"):
        formation.run({})
    assert "last words" in shown.getvalue()
    needed = shown.getvalue().partition("needed started (pid ")[2].partition(")")[0]
    assert not psutil.pid_exists(int(needed))


def test_formation_ends_when_one_process_never_answers(tmp_path: Path) -> None:
    formation = Formation({"silent": ["sleep", "300"]}, last=[], cwd=tmp_path, output=io.StringIO())
    with pytest.raises(EnvironmentNotReady, match=r"silent did not answer within 0\.2 s"):
        formation.run({"silent": lambda: False}, ready_seconds=0.2)


def test_formation_with_an_unknown_program_stops_what_it_started(tmp_path: Path) -> None:
    shown = io.StringIO()
    formation = Formation({"good": ["sleep", "300"], "bad": ["no-such"]}, last=["good"], cwd=tmp_path, output=shown)
    with pytest.raises(EnvironmentNotReady, match="no-such is not installed"):
        formation.run({})
    assert "all stopped" in shown.getvalue()


def test_formation_prints_whole_lines_and_a_last_one_without_newline(tmp_path: Path) -> None:
    shown = io.StringIO()
    code = "import sys; sys.stdout.write('one\\ntwo'); sys.exit(1)"
    with pytest.raises(EnvironmentNotReady):
        Formation({"short": [sys.executable, "-c", code]}, last=[], cwd=tmp_path, output=shown).run({})
    lines = [line.partition("| ")[2] for line in shown.getvalue().splitlines() if "short" in line.partition("|")[0]]
    assert lines == ["one", "two"]
