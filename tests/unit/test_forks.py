"""Programs that are started as forks are what a new interpreter would make of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests import forks
from tests.support import living, until

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


def test_forks_have_imported_nothing_of_this_project(tmp_path: Path) -> None:
    program = "import sys; print([name for name in sys.modules if name.partition('.')[0] in ('tasks_demo', 'project', 'tests')])"
    assert forks.run(["-c", program], cwd=tmp_path, env=os.environ, timeout=60)[1] == "[]\n"


def test_forks_die_with_the_interpreter_that_was_forked(tmp_path: Path) -> None:
    own = forks.Server()
    with open(os.devnull) as nothing:
        asleep = own.start(["-c", "import time; time.sleep(60)"], tmp_path, os.environ, [nothing.fileno()] * 3)
    child = psutil.Process(asleep.pid)
    assert child.ppid() == own.pid
    assert living([child])
    os.kill(own.pid, signal.SIGKILL)
    until(lambda: not living([child]), "the end of the fork")
    assert asleep.wait(10) == -signal.SIGKILL
    own.close()
