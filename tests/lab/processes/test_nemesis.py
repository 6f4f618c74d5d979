"""The nemesis injects faults only into processes of this run, only at the planned point, and reports whether they were injected.

Over 300 lines: every test uses the same pair of processes and the protocol of the failpoints.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks_demo.core.lifecycle import Point
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.processes.nemesis import Nemesis
from tests.support import until

#: A process in its own group with one child, like a worker's main process; prints the child's pid and waits.
MAIN = """
import os, signal, sys, time
child = os.fork()
if child == 0:
    signal.pause()
    os._exit(0)
signal.signal(signal.SIGTERM, lambda *_: (os.kill(child, 9), sys.exit(0)))
signal.signal(signal.SIGQUIT, lambda *_: (os.kill(child, 9), sys.exit(0)))
print(child, flush=True)
while True:
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        signal.pause()
"""


class Pair:
    """A main process and its child."""

    def __init__(self) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-c", MAIN], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._popen.stdout is not None
        self.main = self._popen.pid
        self.child = int(self._popen.stdout.readline())

    def alive(self) -> tuple[bool, bool]:
        """(main, child)"""
        return self._lives(self.main), self._lives(self.child)

    @staticmethod
    def _lives(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def end(self) -> None:
        if self._popen.poll() is None:
            os.killpg(self.main, signal.SIGKILL)
        elif self._lives(self.child):
            os.kill(self.child, signal.SIGKILL)
        self._popen.wait(10)
        assert self._popen.stdout is not None
        self._popen.stdout.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.end()


@pytest.fixture
def arena(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[Nemesis, list[dict[str, Any]]]]]:
    made: list[Nemesis] = []
    # In these tests an unknown process must stay unknown.
    monkeypatch.setattr("tasks_demo.lab.processes.nemesis.KNOWN_SECONDS", 0.1)

    def make(fault: Fault, **options: Any) -> tuple[Nemesis, list[dict[str, Any]]]:
        reports: list[dict[str, Any]] = []
        nemesis = Nemesis(
            short / f"{len(made)}.sock", fault, {"victim": Point.STARTED, "of main": Point.FETCHED},
            on_fault=lambda task_id, report: reports.append({"task_id": task_id, **report.detail()}),
            on_ready=lambda pid: None, **options,
        )  # fmt: skip
        made.append(nemesis)
        return nemesis, reports

    yield make
    for nemesis in made:
        nemesis.close()


def call(
    short: Path, child: int, main: int, task_id: str = "victim", point: str = "started", role: str = "child"
) -> socket.socket:
    """Act as the probe in a pool process; any answer can be read from the socket."""
    line = socket.socket(socket.AF_UNIX)
    line.settimeout(30)
    line.connect(str(short / "0.sock"))
    message = {"what": "at", "role": role, "pid": child, "parent": main, "task_id": task_id, "point": point}
    line.sendall(json.dumps(message).encode() + b"\n")
    return line


@pytest.mark.parametrize(
    ("fault", "survivors"),
    [
        (Fault.KILL_CHILD, (True, False)),
        (Fault.KILL_GROUP, (False, False)),
        (Fault.TERM, (False, False)),
        (Fault.QUIT, (False, False)),
    ],
)
def test_nemesis_reports_a_fault_that_was_injected(
    short: Path, pair: Pair, arena: Callable[..., Any], fault: Fault, survivors: tuple[bool, bool]
) -> None:
    nemesis, reports = arena(fault)
    nemesis.mains.add(pair.main)
    with call(short, pair.child, pair.main):
        until(lambda: reports, "the report of the fault")
    assert reports[0]["landed"] is True, reports
    assert (reports[0]["what"], reports[0]["main_pid"], reports[0]["child_pid"]) == (str(fault), pair.main, pair.child)
    assert reports[0]["pid"] == (pair.child if fault.victim == "child" else pair.main)
    until(lambda: pair.alive() == survivors, f"{survivors} alive, it was {pair.alive()}")
    assert nemesis.injected == 1


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault.aimable])
def test_nemesis_refuses_a_process_that_this_run_did_not_start(
    short: Path, pair: Pair, arena: Callable[..., Any], fault: Fault
) -> None:
    nemesis, reports = arena(fault)
    with call(short, pair.child, pair.main) as line:
        assert line.recv(1) == b"g", "it is let go"
    until(lambda: reports, "the report")
    assert reports[0]["landed"] is False
    assert reports[0]["why"] == f"pid {pair.main} is not a worker that this run started"
    assert (pair.alive(), nemesis.injected) == ((True, True), 0)


def test_nemesis_refuses_a_child_of_another_process(short: Path, pair: Pair, arena: Callable[..., Any]) -> None:
    other = Pair()
    try:
        nemesis, reports = arena(Fault.KILL_CHILD)
        nemesis.mains.add(pair.main)
        for victim in (other.child, os.getpid(), 1):
            nemesis.reached.clear()
            with call(short, victim, pair.main) as line:
                assert line.recv(1) == b"g"
        until(lambda: len(reports) == 3, "three reports")
        assert {report["landed"] for report in reports} == {False}
        assert all("is not a pool process of worker" in report["why"] for report in reports)
        assert pair.alive() == other.alive() == (True, True)
    finally:
        other.end()


def test_nemesis_reports_a_miss_when_the_process_is_gone(short: Path, pair: Pair, arena: Callable[..., Any]) -> None:
    nemesis, reports = arena(Fault.KILL_CHILD)
    nemesis.mains.add(pair.main)
    os.kill(pair.child, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(pair.child), "the child's end")  # a zombie is not gone
    with call(short, pair.child, pair.main) as line:
        assert line.recv(1) == b"g"
    until(lambda: reports, "the report")
    assert reports[0]["landed"] is False
    assert nemesis.injected == 0


@pytest.mark.parametrize(("task_id", "point"), [("somebody", "started"), ("victim", "returned")])
def test_nemesis_injects_only_at_a_planned_victim_at_its_planned_point(
    short: Path, pair: Pair, arena: Callable[..., Any], task_id: str, point: str
) -> None:
    nemesis, reports = arena(Fault.KILL_GROUP)
    nemesis.mains.add(pair.main)
    with call(short, pair.child, pair.main, task_id, point) as line:
        assert line.recv(1) == b"g"
    assert (reports, pair.alive()) == ([], (True, True))


def test_nemesis_injects_once_per_victim(short: Path, pair: Pair, arena: Callable[..., Any]) -> None:
    nemesis, reports = arena(Fault.KILL_CHILD)
    nemesis.mains.add(pair.main)
    with call(short, pair.child, pair.main):
        until(lambda: reports, "the first fault")
    with call(short, pair.child, pair.main) as line:
        assert line.recv(1) == b"g"
    assert len(reports) == 1


def test_nemesis_waits_for_the_precondition(short: Path, pair: Pair, arena: Callable[..., Any]) -> None:
    asked: list[tuple[bool, bool]] = []

    def missing(task_id: str, point: str) -> str:
        assert (task_id, point) == ("victim", "started")
        asked.append(pair.alive())
        return "" if len(asked) >= 3 else "the acknowledgement"

    nemesis, reports = arena(Fault.KILL_CHILD, precondition=missing)
    nemesis.mains.add(pair.main)
    with call(short, pair.child, pair.main):
        until(lambda: reports, "the fault")
    assert asked == [(True, True)] * 3
    assert reports[0]["landed"] is True


def test_nemesis_reports_a_miss_when_the_precondition_stays_unmet(
    short: Path, pair: Pair, arena: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks_demo.lab.processes.nemesis.PRECONDITION_SECONDS", 0.1)
    nemesis, reports = arena(Fault.KILL_CHILD, precondition=lambda task_id, point: "the message was not acknowledged")
    nemesis.mains.add(pair.main)
    with call(short, pair.child, pair.main) as line:
        assert line.recv(1) == b"g"
    until(lambda: reports, "the report")
    assert (reports[0]["landed"], pair.alive()) == (False, (True, True))
    assert reports[0]["why"].startswith("the message was not acknowledged within")


def test_nemesis_kills_a_main_process_at_a_point_of_its_own(short: Path, pair: Pair, arena: Callable[..., Any]) -> None:
    nemesis, reports = arena(Fault.KILL_MAIN)
    nemesis.mains.add(pair.main)
    with call(short, pair.main, os.getpid(), "of main", "fetched", "main"):
        until(lambda: reports, "the fault")
    assert (reports[0]["landed"], reports[0]["pid"], reports[0]["child_pid"]) == (True, pair.main, None)
    until(lambda: not pair.alive()[0], "the end of main")


def test_nemesis_kills_no_child_at_a_point_of_main(short: Path, pair: Pair, arena: Callable[..., Any]) -> None:
    nemesis, reports = arena(Fault.KILL_CHILD)
    nemesis.mains.add(pair.main)
    with call(short, pair.main, os.getpid(), "of main", "fetched", "main") as line:
        assert line.recv(1) == b"g"
    until(lambda: reports, "the report")
    assert reports[0]["why"] == "fetched is a point of the main process"
    assert pair.alive() == (True, True)


def test_nemesis_kills_a_publisher_but_no_foreign_process(short: Path, pair: Pair, arena: Callable[..., Any]) -> None:
    nemesis, reports = arena(Fault.PUBLISHER_CRASH)
    with call(short, pair.main, os.getpid(), "anybody", "committed", "publisher") as line:
        assert line.recv(1) == b"g", "not one of ours"
    until(lambda: reports, "the report of the miss")  # written after the process may continue
    nemesis.mains.add(pair.main)
    nemesis.reached.clear()
    with call(short, pair.main, os.getpid(), "anybody", "committed", "publisher"):
        until(lambda: len(reports) == 2, "the fault")
    assert [report["landed"] for report in reports] == [False, True]
    until(lambda: not pair.alive()[0], "its end")


def test_nemesis_stops_and_continues_a_process(short: Path, pair: Pair, arena: Callable[..., Any]) -> None:
    nemesis, reports = arena(Fault.STOP, pause_seconds=6.0)
    nemesis.mains.add(pair.main)
    with call(short, pair.child, pair.main) as line:
        assert line.recv(1) == b"g", "it finds this word when it wakes"
        assert psutil.Process(pair.child).status() == psutil.STATUS_STOPPED
        until(lambda: reports, "the end of the pause")
    assert (reports[0]["landed"], reports[0]["seconds"]) == (True, 6.0)
    until(lambda: psutil.Process(pair.child).status() != psutil.STATUS_STOPPED, "its waking")
    assert pair.alive() == (True, True)


def test_nemesis_reports_a_miss_when_a_pause_is_ended_early(short: Path, pair: Pair, arena: Callable[..., Any]) -> None:
    nemesis, reports = arena(Fault.STOP, pause_seconds=30.0)
    nemesis.mains.add(pair.main)
    with call(short, pair.child, pair.main) as line:
        assert line.recv(1) == b"g"
        os.kill(pair.child, signal.SIGCONT)
        until(lambda: psutil.Process(pair.child).status() != psutil.STATUS_STOPPED, "its waking")
        nemesis._closing.set()  # ends the pause
        until(lambda: reports, "the end of the pause")
    assert (reports[0]["landed"], reports[0]["why"]) == (False, "the process was not stopped all the time")


def test_nemesis_lets_a_copy_go_on_while_the_victim_is_stopped(
    short: Path, pair: Pair, arena: Callable[..., Any]
) -> None:
    nemesis, reports = arena(Fault.STOP, pause_seconds=30.0)
    nemesis.mains.add(pair.main)
    with call(short, pair.child, pair.main) as stopped, call(short, pair.child, pair.main) as copy:
        assert {stopped.recv(1), copy.recv(1)} == {b"g"}
        assert not reports, "the pause is not over"
        nemesis._closing.set()
    until(lambda: reports, "the end of the pause")
    assert len(reports) == 1


def test_nemesis_injects_poison_at_every_attempt(short: Path, arena: Callable[..., Any]) -> None:
    nemesis, reports = arena(Fault.POISON)
    for attempt in (1, 2):
        victim = Pair()
        try:
            nemesis.mains.add(victim.main)
            with call(short, victim.child, victim.main):
                until(lambda attempt=attempt: len(reports) == attempt, "the fault")
            assert reports[-1]["landed"] is True
            until(lambda victim=victim: victim.alive() == (True, False), "the child's end")
        finally:
            victim.end()
    assert nemesis.injected == 2


def test_nemesis_reports_a_miss_when_the_process_does_not_die(
    short: Path, pair: Pair, arena: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks_demo.lab.processes.deaths.DEATH_SECONDS", 0.3)
    nemesis, reports = arena(Fault.QUIT)
    nemesis.mains.add(pair.main)
    os.kill(pair.main, signal.SIGSTOP)  # a stopped process does not handle SIGQUIT
    with call(short, pair.child, pair.main) as line:
        assert line.recv(1) == b"g"
    until(lambda: reports, "the report")
    assert reports[0]["landed"] is False
    assert "no death within" in reports[0]["why"]


@pytest.mark.parametrize("nonsense", [b"\n", b"{}\n", b"not json\n", b"[1]\n", b"\xff\xff\n", b'{"what": "at"}\n', b""])
def test_nemesis_survives_nonsense_on_its_socket(
    short: Path, pair: Pair, arena: Callable[..., Any], nonsense: bytes
) -> None:
    nemesis, reports = arena(Fault.KILL_CHILD)
    nemesis.mains.add(pair.main)
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(short / "0.sock"))
        line.sendall(nonsense)
    with call(short, pair.child, pair.main):
        until(lambda: reports, "the fault after the nonsense")
    assert reports[0]["landed"] is True


def test_nemesis_close_lets_a_waiting_victim_go_on(short: Path, pair: Pair, arena: Callable[..., Any]) -> None:
    nemesis, _ = arena(Fault.KILL_CHILD, precondition=lambda task_id, point: "the acknowledgement")
    nemesis.mains.add(pair.main)
    with call(short, pair.child, pair.main) as line:
        until(lambda: nemesis.reached, "the wait for the acknowledgement")
        nemesis.close()
        assert line.recv(1) in (b"g", b"")
    assert pair.alive() == (True, True)
