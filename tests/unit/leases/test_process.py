"""Whether a process has ended: never true of one that may still run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tasks_demo.leases.process import Process, parse_process, this_process
from tests.support import until

CODE = "from tasks_demo.leases.process import this_process; print(this_process('a task'), flush=True); input()"


@pytest.fixture
def other() -> Iterator[tuple[subprocess.Popen[str], Process]]:
    """Another process, and its description of itself."""
    with subprocess.Popen(
        [sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as made:
        assert made.stdout is not None
        said = parse_process(made.stdout.readline().rstrip("\n"))
        assert said is not None
        yield made, said
        made.kill()


def test_process_is_gone_once_it_is_killed_reaped_or_not(
    other: tuple[subprocess.Popen[str], Process],
) -> None:
    process, holder = other
    assert (holder.pid, holder.task_id, holder.gone) == (process.pid, "a task", False)
    process.send_signal(signal.SIGSTOP)
    assert not holder.gone, "stopped"
    process.kill()
    until(lambda: holder.gone, "its end, as a zombie")
    process.wait()
    assert holder.gone


def test_process_with_a_reused_pid_is_another() -> None:
    me = this_process("t")
    assert not me.gone
    assert replace(me, start=str(int(me.start) - 1)).gone


def test_process_of_another_boot_machine_or_container_is_not_known() -> None:
    me = replace(this_process("t"), pid=2**22 + 1)
    assert me.gone
    boot, _, namespace = me.where.partition("/")
    for where in ("", f"x{boot}/{namespace}", f"{boot}/pid:[1]"):
        assert not replace(me, where=where).gone


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_process_of_another_user_is_seen(other: tuple[subprocess.Popen[str], Process]) -> None:
    _, holder = other
    pid = os.fork()
    if pid == 0:  # pragma: no cover
        os.setgid(65534)
        os.setuid(65534)
        os._exit(1 if holder.gone else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("text", ["", "x", "a 1", "a b c d", "a 1 2", "a 0 2 t", "a -1 2 t", "\0"])
def test_parse_process_of_anything_else_is_none(text: str) -> None:
    assert parse_process(text) is None


@pytest.mark.parametrize("task_id", ["t", "", "with spaces  in it"])
def test_process_holder_survives_being_text(task_id: str) -> None:
    me = this_process(task_id)
    assert parse_process(str(me)) == me
