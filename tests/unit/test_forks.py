"""Programs that are started as forks are what a new interpreter would make of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests import forks
from tests.support import PROJECT, living, until

SHOW = """import os, sys
print(sys.argv, sys.path[0], os.getcwd(), os.environ['SAID'], os.getsid(0) == os.getpid(), sys.stdin.read())"""


@pytest.mark.parametrize("new", [False, True])
def test_forks_have_arguments_folder_environment_and_session_of_their_own(tmp_path: Path, new: bool) -> None:
    (tmp_path / "shown.py").write_text(SHOW)
    env = {**os.environ, "SAID": "hello", "PYTHONPATH": "/somewhere", **({"PYTHONIOENCODING": "utf-8"} if new else {})}
    for arguments, argv, first in (
        (["-c", SHOW, "one"], ["-c", "one"], ""),
        (["shown.py", "one"], ["shown.py", "one"], str(tmp_path)),
        (["-m", "shown", "one"], [str(tmp_path / "shown.py"), "one"], str(tmp_path)),
    ):
        code, out, err = forks.run(arguments, cwd=tmp_path, env=env, timeout=60)
        assert (code, out.strip(), err) == (0, f"{argv} {first} {tmp_path} hello True", "")


def test_forks_end_as_a_program_does(tmp_path: Path) -> None:
    program = "import atexit, sys; atexit.register(lambda: print('left')); sys.exit(3)"
    assert forks.run(["-c", program], cwd=tmp_path, env=os.environ, timeout=60) == (3, "left\n", "")
    code, _, err = forks.run(["-c", "1 / 0"], cwd=tmp_path, env=os.environ, timeout=60)
    assert (code, err.strip().splitlines()[-1]) == (1, "ZeroDivisionError: division by zero")
    code, _, _ = forks.run(["-c", "import os; os.kill(os.getpid(), 9)"], cwd=tmp_path, env=os.environ, timeout=60)
    assert code == -signal.SIGKILL
    with pytest.raises(AssertionError, match=r"not finished within 3 s; it had said:\nsleeping"):
        forks.run(
            ["-c", "print('sleeping', flush=True); import time; time.sleep(60)"],
            cwd=tmp_path,
            env=os.environ,
            timeout=3,
        )


def test_forks_have_what_is_passed_to_them_under_the_same_numbers(tmp_path: Path) -> None:
    ends = [os.pipe() for _ in range(2)]
    passed = [write for _, write in reversed(ends)]
    program = f"import os; [os.write(number, str(number).encode()) for number in {passed}]"
    server = forks.server()
    assert server is not None
    with open(os.devnull) as nothing:
        child = server.start(["-c", program], tmp_path, os.environ, [nothing.fileno()] * 3, passed)
    assert child.wait(30) == 0
    for read, write in ends:
        assert os.read(read, 100) == str(write).encode()
        os.close(write)
        assert os.read(read, 100) == b"", "somebody else has it open, too"
        os.close(read)


BANK = """import sys, django; django.setup()
from pathlib import Path
from tasks_demo.demo.stack import EmbeddedBank
with EmbeddedBank(Path("bank.log")) as bank:
    print(bank.process.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("fatal", [signal.SIGKILL, None])
def test_forks_that_run_experiments_have_their_banks_forked_which_end_with_them(
    tmp_path: Path, fatal: signal.Signals | None
) -> None:
    env = {
        **os.environ,
        "STATE_DIR": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "PYTHONPATH": str(PROJECT),
    }
    (tmp_path / "program.py").write_text(BANK)
    (read, write), out = os.pipe(), tmp_path / "out"
    with open(read), open(write, "wb") as held, out.open("wb") as file:
        streams = [read, file.fileno(), file.fileno()]
        child = forks.start(["program.py", "experiment"], cwd=tmp_path, env=env, streams=streams)
        until(lambda: child.poll() is not None or out.read_text().endswith("\n"), "the bank")
        bank = psutil.Process(int(out.read_text()))
        assert [parent.pid for parent in bank.parents()[1:3]] == [child.pid, forks.pid()]
        if fatal:
            os.kill(child.pid, fatal)
        else:
            held.close()
        assert child.wait(30) == (-fatal if fatal else 0)
    until(lambda: not living([bank]), "the end of the bank")


def test_forks_have_imported_nothing_of_this_project(tmp_path: Path) -> None:
    program = "import sys; print([name for name in sys.modules if name.partition('.')[0] in ('tasks_demo', 'project', 'tests')])"
    assert forks.run(["-c", program], cwd=tmp_path, env=os.environ, timeout=60)[1] == "[]\n"


def test_forks_die_with_the_interpreter_that_was_forked(tmp_path: Path) -> None:
    own = forks.Server.started()
    with open(os.devnull) as nothing:
        asleep = own.start(["-c", "import time; time.sleep(60)"], tmp_path, os.environ, [nothing.fileno()] * 3)
    child = psutil.Process(asleep.pid)
    assert child.ppid() == own.pid
    assert living([child])
    os.kill(own.pid, signal.SIGKILL)
    until(lambda: not living([child]), "the end of the fork")
    assert asleep.wait(10) == -signal.SIGKILL
    own.close()
