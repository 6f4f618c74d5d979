"""The worker template: it forks real workers quickly, and stops them when it ends, however it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import psutil
import pytest

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.processes.brokers import RedisLane
from tasks_demo.lab.processes.nemesis import Nemesis
from tasks_demo.lab.processes.specs import WorkerSpec
from tasks_demo.lab.processes.template import _UNREAPED, TemplateClient, _report_ended
from tests.support import PROJECT, Home, finish, living, until


class Lab:
    """A template, and the nemesis that its workers report to."""

    def __init__(self, folder: Path, redis_url: str, bank_url: str) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.bank_url = bank_url
        self.ready: Queue[int] = Queue()
        self.exits: Queue[tuple[int, int]] = Queue()
        self.nemesis = Nemesis(
            folder / "n.sock", Fault.KILL_MAIN, {}, on_fault=lambda *_: None, on_ready=self.ready.put,
        )  # fmt: skip
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.template = TemplateClient(folder / "template.log", variables={"TMPDIR": str(self.temporary)})
        self.template.wait_ready()

    def fork(self, imports: tuple[str, ...] = ()) -> int:
        lane = RedisLane(self.redis_url, f"t:{uuid.uuid4().hex}:")
        spec = WorkerSpec(
            name=f"w{uuid.uuid4().hex[:6]}@lab",
            socket=str(self.folder / "n.sock"),
            log=str(self.folder / "worker.log"),
            broker_url=lane.broker_url,
            transport_options=lane.transport_options(60),
            redis_url=self.redis_url,
            key_prefix=lane.prefix,
            lease_seconds=2.0,
            bank_url=self.bank_url,
            imports=list(imports),
        )
        pid = self.template.fork(spec, lambda status: self.exits.put((pid, status)))
        return pid

    def worker(self, *imports: str) -> list[psutil.Process]:
        """The processes of a consuming worker: main and pool."""
        pid = self.fork(imports)
        assert self.ready.get(timeout=60) == pid
        main = psutil.Process(pid)
        return [main, *main.children(recursive=True)]

    def close(self) -> None:
        self.nemesis.close()
        self.template.close()


#: A module of a worker that writes down what the worker imports from then until it consumes.
TELLS = """
import json, os, sys
from celery import signals
there = set(sys.modules)
@signals.worker_ready.connect(weak=False)
def tell(**_):
    with open(os.environ["TELLS"] + ".part", "w") as file:
        json.dump(sorted(set(sys.modules) - there), file)
    os.rename(file.name, os.environ["TELLS"])
"""


@pytest.fixture
def told(short: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a worker that imports ``tells`` writes; request it before ``lab``."""
    (short / "tells.py").write_text(TELLS)
    monkeypatch.syspath_prepend(short)
    monkeypatch.setenv("TELLS", str(short / "told.json"))
    return short / "told.json"


@pytest.fixture
def lab(short: Path, home: Home, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    if home.database_url:
        monkeypatch.setenv("DATABASE_URL", home.database_url)
    else:
        monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("STATE_DIR", str(home.state))
    made = Lab(short, redis_url, "http://127.0.0.1:1")
    yield made
    made.close()


def dead(processes: list[psutil.Process]) -> bool:
    return not living(processes)


def test_template_forks_real_workers_in_groups_of_their_own_and_reports_their_end(lab: Lab) -> None:
    main, *pool = lab.worker()
    assert pool, "a prefork worker has a pool process"
    assert os.getpgid(main.pid) == os.getsid(main.pid) == main.pid
    assert main.ppid() == lab.template.process.pid
    lab.template.terminate(main.pid)
    assert lab.exits.get(timeout=30) == (main.pid, 0)
    until(lambda: dead([main, *pool]), "the end of the worker")


def test_template_has_imported_what_a_worker_needs(told: Path, lab: Lab) -> None:
    """In each worker these imports would take three quarters of its start."""
    lab.worker("tells")
    until(told.exists, "what the worker has imported")
    packages = {name.partition(".")[0] for name in json.loads(told.read_text())}
    assert packages <= {"billiard", "tasks_demo"}, packages


def test_template_kills_a_worker_with_its_pool_and_nothing_of_it_stays(lab: Lab) -> None:
    main, *pool = lab.worker()
    lab.template.kill(main.pid)
    assert lab.exits.get(timeout=30) == (main.pid, -signal.SIGKILL)
    until(lambda: dead(pool), "the end of the pool")
    assert list(lab.temporary.iterdir()) == []


def test_template_reports_the_signal_of_a_killed_worker_whose_pool_dies_with_it(lab: Lab) -> None:
    main, *pool = lab.worker()
    main.kill()
    assert lab.exits.get(timeout=30) == (main.pid, -signal.SIGKILL)
    until(lambda: dead(pool), "the end of the pool")


def test_template_does_not_signal_a_worker_that_has_ended(lab: Lab) -> None:
    """Its pid may have been reused, and the caller cannot know that it has just been killed."""
    main, *_ = lab.worker()
    main.kill()
    assert lab.exits.get(timeout=30) == (main.pid, -signal.SIGKILL)
    for end in (lab.template.terminate, lab.template.kill):
        end(main.pid)
        end(os.getpid())
    assert lab.worker(), "the template lives, and so do we"


def test_ended_workers_are_reaped_when_they_are_many_unless_something_of_theirs_runs() -> None:
    """A group's ID is its first process's pid: as long as that is not reaped, nobody else gets it."""
    ours, theirs = socket.socketpair()
    leaves = ["/bin/sh", "-c", "sleep 600 & exit 3"]
    with ours, theirs:
        started = [subprocess.Popen(leaves, start_new_session=True)]
        started += [subprocess.Popen(["/bin/true"], start_new_session=True) for _ in range(_UNREAPED)]
        workers, unreaped, heard = {each.pid for each in started}, list[int](), b""
        for _ in range(10_000):
            if not workers:
                break
            _report_ended(theirs, workers, unreaped)
            time.sleep(0.005)
        while heard.count(b"\n") < len(started):
            heard += ours.recv(65536)
    said = {one["exit"]: one["status"] for one in map(json.loads, heard.splitlines())}
    try:
        assert said == {each.pid: 3 if each is started[0] else 0 for each in started}
        assert unreaped == [started[0].pid]
    finally:
        os.killpg(started[0].pid, signal.SIGKILL)
        for each in started:
            each.wait()


def test_template_close_ends_its_workers(lab: Lab) -> None:
    processes = [process for _ in range(2) for process in lab.worker()]
    lab.template.close()
    until(lambda: dead(processes), "the end of every worker")
    assert not lab.template.process.alive()
    with pytest.raises(EnvironmentNotReady, match="template has ended"):
        lab.fork()


def test_template_killed_takes_its_workers_along(lab: Lab) -> None:
    processes = lab.worker()
    os.kill(lab.template.process.pid, signal.SIGKILL)
    until(lambda: dead(processes), "the end of every worker")


def test_template_that_cannot_start_says_why(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "nonsense")
    client = TemplateClient(short / "template.log")
    try:
        with pytest.raises(EnvironmentNotReady, match="did not start"):
            client.wait_ready()
    finally:
        client.close()


def test_template_starts_in_the_running_project_wherever_the_package_is_installed(short: Path, home: Home) -> None:
    hidden = shutil.ignore_patterns("__pycache__", "node_modules")
    shutil.copytree(PROJECT / "tasks_demo", short / "site" / "tasks_demo", ignore=hidden)
    shutil.copytree(PROJECT / "project", short / "app" / "project", ignore=hidden)
    program = (
        "import os, sys; sys.path[:0] = [os.path.abspath(path) for path in ('site', 'app')]\n"
        "import django, pathlib; django.setup()\n"
        "from tasks_demo.lab.processes.template import TemplateClient\n"
        "client = TemplateClient(pathlib.Path('template.log'))\n"
        "client.wait_ready(); client.close(); print('ready')\n"
    )
    settings = {"DJANGO_SETTINGS_MODULE": "project.settings"}
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=short, env=home.env(settings),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert finish(process).out == "ready\n"
