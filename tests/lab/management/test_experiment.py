"""``manage.py experiment``: invalid input, missing infrastructure, plans, interruption and death of the experiment itself.

Over 300 lines: it tests the exit codes of one command, on one stack that starts once.
"""

from __future__ import annotations

import ctypes
import json
import platform
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks_demo.lab.management.commands.experiment import Command
from tests.integration.servers.redis import RedisServer
from tests.support import (
    MARK,
    STATE,
    Finished,
    Home,
    all_gone,
    describe,
    finish,
    interrupt,
    living,
    marked,
    scratch_database,
    together,
    until,
)

pytestmark = pytest.mark.timeout(240)

TINY = ("--pattern", "acks_late", "--fault", "kill-child", "--tasks", "6", "--kills", "2")


@pytest.fixture
def runs(home: Home) -> Callable[[], set[str]]:
    """The folders of experiments that have begun."""
    folder = home.state / "runs"
    return lambda: {path.name for path in folder.iterdir()} if folder.exists() else set()


# -- usage -------------------------------------------------------------------------------------------------------------------

USAGE: list[tuple[list[str], str]] = [
    (["--pattern", "exactly_once"], "invalid choice: 'exactly_once'"),
    (["--fault", "earthquake"], "Unknown fault 'earthquake'"),
    (["--fault", "kill-main + earthquake"], "Unknown fault 'earthquake'"),
    (["--fault", "kill-main", "+", "cut"], "Unknown fault '+'"),
    (["--fault", "cut + cut"], "names one fault twice"),
    (["--fault", "cut + delay"], "these two cannot be combined"),
    (["--point", "nowhere"], "invalid choice: 'nowhere'"),
    (["--broker", "kafka"], "Unknown broker 'kafka'"),
    (["--broker", "http://127.0.0.1"], "Unknown broker"),
    (["--broker", ""], "--broker: the value is empty; give one, or leave the option out"),
    (["--broker", "redis", "reliable+redis://h"], "--broker takes several names, or one address"),
    (["--broker", "redis", "redis"], "--broker names the same broker twice"),
    (["--broker", "redis", "kafka"], "Unknown broker 'kafka'"),
    *(
        (["--tasks", text], "--tasks is 1 to 1000000")
        for text in ("0", "-1", "1000001", "nan", "inf", "1.5", "", "ten")
    ),
    *((["--kills", text], "--kills is 1 to 100000") for text in ("0", "-1", "nan", "1e2")),
    *((["--work", text], "--work is 0 to 60000") for text in ("-1", "60001", "NaN")),
    *((["--seed", text], "--seed is 0 to") for text in ("-1", "seven", "1.0", "", str(2**63))),
    *((["--lanes", text], "--lanes is 1 to 64") for text in ("0", "65", "many")),
    (["--tasks", "5", "--kills", "6"], "--kills 6 is more than --tasks 5"),
    (["--pattern", "acks_late", "--fault", "kill-main", "--point", "claimed"], "Nothing to run"),
    (
        ["--pattern", "inbox", "--fault", "lost-response"],
        "the job of inbox calls no bank, so lost-response cannot happen",
    ),
    (["--plan", "--json", "x.json"], "--plan runs nothing, so --json would do nothing"),
    (["--plan", "--lanes", "2", "--broker", "redis"], "--plan runs nothing, so --lanes would do nothing"),
    (["--queue", "quorum"], "--queue quorum would do nothing here: redis has no types of queues"),
    (["--replay", "manage.py", "--tasks", "100"], "leave --tasks out"),
    (["--replay", "manage.py", "--keyless", "--work", "0", "--clicks", "1"], "leave --work, --clicks, --keyless out"),
    (["--html", "same", "--junit", "same"], "name the same file same"),
    (["--events", "-"], "only --json goes to stdout"),
    (["--surprise"], "unrecognized arguments"),
    (["--replay", "no-such-file.json"], "no-such-file.json cannot be read"),
    (["--replay", "manage.py"], "manage.py holds no plan"),
    (["--replay", "manage.py", "--seed", "1"], "--replay brings its own plan"),
    (["--json", "/no/such/folder/out.json"], "Nothing was run"),
    (["--events", "/proc/nobody/ev.jsonl"], "Nothing was run"),
    (["--html", "/"], "Nothing was run"),
]


@pytest.mark.parametrize(("arguments", "said"), USAGE, ids=lambda value: ascii(value)[:60])
def test_experiment_used_wrongly_is_exit_2_and_runs_nothing(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        Command().run_from_argv(["manage.py", "experiment", *arguments])
    captured = capsys.readouterr()
    assert left.value.code == 2
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert not (STATE / "runs").exists()


@pytest.mark.parametrize(
    "document",
    [
        "", "{}", "[]", "null", "17", '{"plan": []}', '{"plan": [{}], "seed": 1}', '{"plan": 3, "seed": 1}',
        '{"configuration": {}}', '{"plan": [{"pattern": "nonsense"}]}', "\0", '{"seed": "x", "plan": []}', "[" * 100_000,
    ],
    ids=lambda text: ascii(text)[:40],
)  # fmt: skip
def test_replay_of_nonsense_is_code_2(document: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    path.write_text(document, encoding="utf-8")
    with pytest.raises(SystemExit) as left:
        Command().run_from_argv(["manage.py", "experiment", "--replay", str(path)])
    captured = capsys.readouterr()
    assert (left.value.code, captured.out) == (2, ""), captured.err
    assert "holds no plan" in captured.err


@pytest.mark.parametrize(
    "change",
    [
        {"victims": {"99": "started"}},
        {"victims": {"-1": "started"}},
        {"tasks": 0},
        {"tasks": -3},
        {"work_ms": -1},
        {"broker": "x"},
    ],
    ids=str,
)
def test_plan_that_cannot_be_is_code_2(
    change: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = {
        "pattern": "acks_late", "fault": "kill-child", "point": "", "broker": "redis", "seed": 1, "tasks": 4,
        "work_ms": 0, "victims": {"1": "started"},
    }  # fmt: skip
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"seed": 1, "plan": [{**cell, **change}]}), encoding="utf-8")
    with pytest.raises(SystemExit) as left:
        # With --plan nothing would run even if the options were accepted.
        Command().run_from_argv(["manage.py", "experiment", "--plan", "--replay", str(path)])
    assert left.value.code == 2
    assert "holds no plan" in capsys.readouterr().err


def test_experiment_command_used_wrongly_is_exit_2(home: Home, runs: Callable[[], set[str]]) -> None:
    before = runs()
    bad = [("--tasks", "0"), ("--broker", "kafka"), ("--json", str(home.state)), ("--events", "/no/where")]
    for done in together([lambda arguments=arguments: home.manage("experiment", *arguments) for arguments in bad], 2):  # type: ignore[misc]
        assert (done.code, done.out) == (2, ""), done
        done.sentence()
    assert runs() == before


def test_ctrl_c_in_any_command_is_code_130_without_a_traceback(home: Home) -> None:
    interrupt = "import os, signal, threading; os.kill(os.getpid(), signal.SIGINT); threading.Event().wait(30)"
    done = home.manage("shell", "--no-imports", "-c", interrupt)
    assert (done.code, done.out, done.err.strip()) == (130, "", "Interrupted.")


# -- plans ---------------------------------------------------------------------------------------------------------------------


def test_plan_is_reproducible_and_its_replay_hits_the_same_victims(home: Home, tmp_path: Path) -> None:
    first, second = together([lambda: home.manage("experiment", *TINY, "--seed", "5", "--plan")] * 2, 2)
    assert (first.code, first.err) == (0, "")
    assert first.out == second.out
    plan = json.loads(first.out)
    path = tmp_path / "plan.json"
    path.write_text(first.out, encoding="utf-8")
    html, summary = tmp_path / "report.html", tmp_path / "summary.md"
    summary.write_text("A step before.\n", encoding="utf-8")
    done = home.manage(
        "experiment", "--replay", str(path), "--json", "-", "--html", str(html), "--no-progress", timeout=120,
        env={"GITHUB_STEP_SUMMARY": str(summary)},
    )  # fmt: skip
    assert done.code == 0, done.err
    result = json.loads(done.out)  # nothing else is on stdout
    assert html.read_text().count('class="swimlanes"') == 2, "two jobs were killed"
    assert summary.read_text().startswith("A step before.\n### Experiment\n\n| pattern |")
    assert (result["seed"], result["configuration"]["plan"]) == (5, plan["plan"])
    victims = set(plan["plan"][0]["victims"].items())
    events = [json.loads(line) for line in (home.state / "runs/latest/events.jsonl").read_text().splitlines()]
    run = f"{result['configuration']['run']}:acks_late/kill-child"
    ids = [str(uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_URL, run), str(index))) for index in range(6)]
    hit = {(str(ids.index(e["task_id"])), e["detail"]["point"]) for e in events if e["kind"] == "fault"}
    assert hit == victims
    again = tmp_path / "result.json"
    again.write_text(done.out, encoding="utf-8")
    replayed = home.manage("experiment", "--replay", str(again), "--plan")
    assert json.loads(replayed.out) == plan
    elsewhere = home.manage("experiment", "--replay", str(again), "--broker", "amqp://127.0.0.1:1")
    assert (elsewhere.code, elsewhere.out) == (2, "")
    assert "The plan is for redis: --broker amqp is another." in elsewhere.sentence()


# -- infrastructure that is not ready ------------------------------------------------------------------------------------------


def refused(done: Finished, *said: str) -> None:
    assert (done.code, done.out) == (4, ""), done
    for text in said:
        assert text in done.sentence(), done.err


def test_experiment_runs_where_the_path_of_a_socket_in_tmpdir_would_be_too_long(home: Home, tmp_path: Path) -> None:
    deep = tmp_path / ("long" * 30)
    deep.mkdir()
    done = home.manage("experiment", *TINY, env={"TMPDIR": str(deep)})
    assert done.code == 0, done.err


def test_redis_that_is_not_ready_is_code_4_before_anything_is_published(home: Home, short: Path) -> None:
    (short / "ro").mkdir()
    (short / "full").mkdir()
    (short / "pw").mkdir()
    with RedisServer(short / "ro") as replica, RedisServer(short / "full") as full, RedisServer(short / "pw") as locked:
        with replica.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
        with full.client() as client:
            client.config_set("maxmemory", "1")
        with locked.client() as client:
            client.config_set("requirepass", "right")
        wrong = locked.url.replace("unix://", "unix://:wrong@")
        environments: list[tuple[dict[str, str], tuple[str, ...]]] = [
            ({"REDIS_URL": f"unix://{short}/nobody"}, ()),
            ({"REDIS_URL": replica.url}, ("ReadOnlyError",)),
            ({"REDIS_URL": full.url}, ("OutOfMemoryError",)),
            ({"REDIS_URL": wrong}, ("password",)),
        ]
        finished = together([lambda env=env: home.manage("experiment", *TINY, env=env) for env, _ in environments], 2)  # type: ignore[misc]
        for done, (env, said) in zip(finished, environments, strict=True):
            refused(done, "cannot be used", *said)
            assert "wrong@" not in done.err, f"a password is shown: {env}"
        for server in (replica, full):
            with server.client() as client:
                assert client.dbsize() == 0


def test_missing_migrations_a_missing_database_and_a_missing_bank_are_code_4(home: Home, short: Path) -> None:
    shop = f"sqlite:///{short}/none/shop"
    missing, nowhere, bank, shopless = together(
        [
            lambda: home.manage(
                "experiment", *TINY, env={"STATE_DIR": str(short), "DATABASE_URL": f"sqlite:///{short}/e"}
            ),
            lambda: home.manage("experiment", *TINY, env={"DATABASE_URL": "postgres://nobody@127.0.0.1:1/none"}),
            lambda: home.manage("experiment", *TINY, env={"BANK_URL": "http://127.0.0.1:1"}),
            lambda: home.manage("experiment", *TINY, env={"SHOP_DATABASE_URL": shop}),
        ],
        2,
    )
    refused(missing, "lacks", "Run `python manage.py migrate`.")
    refused(nowhere, "The database 'default' cannot be used", "DATABASE_URL")
    refused(shopless, "The database 'shop' cannot be used", "SHOP_DATABASE_URL")
    refused(bank, "The bank at http://127.0.0.1:1 does not answer", "BANK_URL")


# -- the experiment itself is interrupted, or dies -------------------------------------------------------------------


class Running:
    """A long experiment that is already running, in its own folder, with its own mark on all its processes."""

    def __init__(self, state: Path, url: str) -> None:
        self.token = uuid.uuid4().hex
        self.seen: list[psutil.Process] = []
        self.home = Home(state, url)
        self.home.migrate()
        self.events, self.result = state / "ev.jsonl", state / "out.json"
        self.process: subprocess.Popen[str] = self.home.start(
            "experiment", "--pattern", "acks_late", "dedup_lock", "--fault", "none", "kill-main", "--tasks", "3000",
            "--kills", "300", "--seed", "1", "--events", str(self.events), "--json", str(self.result),
            env={MARK: self.token}, own_group=True,
        )  # fmt: skip

    def charging(self) -> bool:
        """Whether the workers run jobs, according to their logs."""
        assert self.process.poll() is None, self.process.communicate()
        logs = list(self.home.state.glob("runs/2*/*-*.log"))
        return sum("succeeded in" in log.read_text(errors="replace") for log in logs) >= 2

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        for process in (*marked(self.token), *living(self.seen)):
            process.kill()


@pytest.fixture
def running(short: Path) -> Iterator[Running]:
    with scratch_database(f"tasks_demo_{uuid.uuid4().hex[:12]}") as url:
        made = Running(short, url)
        try:
            until(made.charging, "workers that charge", 120)
            made.seen = psutil.Process(made.process.pid).children(recursive=True)
            names = " ".join(describe(process) for process in made.seen)
            assert all(part in names for part in ("redis-server", "bank", "template")), names
            yield made
        finally:
            made.close()


def to_another_thread(process: subprocess.Popen[str]) -> None:
    """SIGINT to a thread other than the main one, which keeps sleeping; the kernel may deliver it so."""
    tgkill = {"x86_64": 234, "aarch64": 131}.get(platform.machine())
    if tgkill is None:
        pytest.skip("the number of this system call is not known here")
    other = next(thread.id for thread in psutil.Process(process.pid).threads() if thread.id != process.pid)
    assert ctypes.CDLL(None).syscall(tgkill, process.pid, other, signal.SIGINT) == 0


@pytest.mark.parametrize(
    "interrupted",
    [
        pytest.param(lambda process: interrupt(process, signal.SIGINT), id="Ctrl-C"),
        pytest.param(lambda process: process.send_signal(signal.SIGTERM), id="SIGTERM"),
        pytest.param(to_another_thread, id="another-thread"),
    ],
)
def test_interrupted_experiment_ends_everything_and_keeps_what_it_saw(
    running: Running, interrupted: Callable[[subprocess.Popen[str]], None]
) -> None:
    interrupted(running.process)
    done = finish(running.process, 60)
    assert done.code == 130, done.err
    assert "Interrupted. Everything was ended; what was seen until then is in " in done.sentence()
    all_gone(running.token, running.seen)
    assert not list(running.home.state.glob("runs/2*/scratch")), "its databases are gone"
    events = [json.loads(line) for line in running.events.read_text(encoding="utf-8").splitlines()]
    assert {"published", "started", "worker"} <= {event["kind"] for event in events}
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    result = json.loads(running.result.read_text(encoding="utf-8"))
    assert {cell["observed"] for cell in result["cells"]} <= {"unknown"}, "what was cut short never passes"


def test_experiment_that_is_killed_ends_everything_that_it_started(running: Running) -> None:
    assert len(running.seen) >= 5
    running.process.send_signal(signal.SIGKILL)
    finish(running.process, 10)
    all_gone(running.token, running.seen)
    (left,) = running.home.state.glob("runs/2*/scratch")
    sockets = Path(json.loads((left / "leftovers.json").read_text())["sockets"])
    assert sockets.is_dir()
    assert running.home.manage("experiment", *TINY).code == 0
    assert not list(running.home.state.glob("runs/2*/scratch")), "the next run removes what it left"
    assert not sockets.exists()
