"""``python -m tasks_demo.lab``: real kills of a Celery app that has no Django (examples/plain_celery)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
from celery.exceptions import CDeprecationWarning

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.lab.processes import wall_clock
from tests import forks
from tests.support import PROJECT, STATE, Finished, living, until

pytestmark = pytest.mark.timeout(420)

SHOP = PROJECT / "examples" / "plain_celery"
FEW = ("--tasks", "3", "--kills", "2", "--seed", "5")


@dataclass(frozen=True)
class Plain:
    """The example, with a folder of orders and a state folder of its own."""

    folder: Path

    def lab(self, *arguments: str, app: str = "shop.app:app", env: dict[str, str] | None = None) -> Finished:
        """Run the lab on it; ``app`` empty: without ``--app``."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "TASKS_DEMO_LEDGER"))
        }
        orders = self.folder / "orders"
        orders.mkdir(exist_ok=True)
        return Finished(*forks.run(
            ["-m", "tasks_demo.lab", *(["--app", app] if app else []), *arguments], cwd=SHOP, timeout=300,
            env={**kept, "PYTHONPATH": str(PROJECT), "STATE_DIR": str(self.folder), "SHOP_FOLDER": str(orders), **(env or {})},
        ))  # fmt: skip

    def result(self, *arguments: str, code: int) -> tuple[Finished, dict[str, Any]]:
        """Run an experiment; return what it said and its result, which follows the schema."""
        out = self.folder / "out.json"
        done = self.lab(*FEW, "--json", str(out), *arguments)
        assert done.code == code, done.err + done.out
        found: dict[str, Any] = json.loads(out.read_text())
        schema = PROJECT / "tasks_demo/lab/reports/experiment-1.schema.json"
        jsonschema.validate(found, json.loads(schema.read_text()))
        assert all(cell["kills"]["landed"] == cell["kills"]["planned"] > 0 for cell in found["cells"])
        return done, found


@pytest.fixture
def plain() -> Iterator[Plain]:
    with tempfile.TemporaryDirectory(prefix="p-", dir=STATE, ignore_cleanup_errors=True) as folder:
        yield Plain(Path(folder))


def test_task_that_is_acknowledged_late_and_its_forgotten_setting(plain: Plain) -> None:
    events = plain.folder / "events.jsonl"
    done, result = plain.result(
        "--task", "shop.charge_late", "--args", "orders.jsonl", "--effects", "shop.app:charges", "--fault", "kill-child",
        "--point", "started", "--events", str(events), code=1,
    )  # fmt: skip
    (cell,) = result["cells"]
    assert (cell["judged"], cell["semantics"], cell["observed"]) == ("effects", "at-least-once", "broken")
    assert (cell["lost"], cell["effects"]) == (2, {"0": 2, "1": 1, "2+": 0})
    assert "reject_on_worker_lost (task_reject_on_worker_lost) is off" in done.out
    verdict = subprocess.run(
        [sys.executable, "-m", "tasks_demo.lab.verdict", str(events)], capture_output=True, text=True, cwd=PROJECT, check=False
    )  # fmt: skip
    assert (verdict.returncode, "2 lost" in verdict.stdout) == (1, True), verdict.stderr + verdict.stdout
    again = plain.lab("--replay", str(plain.folder / "out.json"))
    assert again.code == 1, again.err
    assert "lost 2 of 3 jobs" in again.out


def test_task_that_is_acknowledged_late_loses_a_job_in_a_black_hole_while_its_worker_lives(plain: Plain) -> None:
    done, result = plain.result(
        "--task", "shop.charge_late", "--args", "orders.jsonl", "--effects", "shop.app:charges", "--fault", "black-hole",
        "--point", "fetched", "--kills", "1", code=1,
    )  # fmt: skip
    (cell,) = result["cells"]
    assert (cell["observed"], cell["lost"], cell["kills"]) == ("broken", 1, {"planned": 1, "landed": 1})
    assert "the connection ended between Redis popping the message and the worker recording it" in done.out


def test_executions_are_judged_without_effects_and_jobs_that_the_task_publishes_are_not(plain: Plain) -> None:
    _, result = plain.result(
        "--task", "shop.charge_surely", "--args", "orders.jsonl", "--fault", "kill-child", "kill-main", "--point", "returned",
        "acking", code=0,
    )  # fmt: skip
    assert [(cell["fault"], cell["point"]) for cell in result["cells"]] == [
        ("kill-child", "returned"), ("kill-main", "returned"), ("kill-main", "acking"),
    ]  # fmt: skip
    for cell in result["cells"]:
        assert (cell["judged"], cell["observed"], cell["tasks"]) == ("executions", "held", 3)
        assert (cell["lost"], cell["duplicated"]) == (0, 2), (
            "an execution that returned and was not acknowledged runs again"
        )


def test_task_as_celery_ships_it_keeps_at_most_once_and_not_what_is_asked(plain: Plain) -> None:
    task = ("--task", "shop.charge", "--args", "orders.jsonl", "--fault", "kill-child", "--point", "started")
    _, result = plain.result(*task, code=0)
    assert (result["cells"][0]["semantics"], result["cells"][0]["lost"]) == ("at-most-once", 2)
    done, result = plain.result(*task, "--promise", "at-least-once", code=1)
    assert (result["cells"][0]["semantics"], result["cells"][0]["observed"]) == ("at-least-once", "broken")
    assert "acks_late is off" in done.out


def test_task_as_celery_ships_it_runs_twice_if_its_worker_dies_before_the_acknowledgement(plain: Plain) -> None:
    done, result = plain.result(
        "--task", "shop.charge", "--args", "orders.jsonl", "--effects", "shop.app:charges", "--fault", "kill-main", "--point",
        "acking", "--kills", "1", code=1,
    )  # fmt: skip
    assert (result["cells"][0]["semantics"], result["cells"][0]["duplicated"]) == ("at-most-once", 1)
    assert "ClaimFirst refuses the second delivery" in done.out


def test_confirmation_that_a_publisher_never_gets_makes_two_messages_and_both_run(plain: Plain) -> None:
    task = ("--task", "shop.charge", "--args", "orders.jsonl", "--effects", "shop.app:charges")
    done, result = plain.result(
        *task, "--fault", "cut-publish", "--broker", "redis", "reliable", "--kills", "1", code=1
    )  # fmt: skip
    for cell in result["cells"]:
        assert (cell["semantics"], cell["lost"], cell["duplicated"]) == ("at-most-once", 0, 1), cell
        assert (cell["published"], cell["kills"]) == (3, {"planned": 1, "landed": 1}), cell
    assert (
        done.out.count(
            "publishes again what was not confirmed (task_publish_retry): a second message. ClaimFirst refuses it"
        )
        == 2
    )
    _, result = plain.result(*task, "--fault", "delay-publish", "black-hole-publish", "--kills", "1", code=0)
    assert [(cell["lost"], cell["duplicated"], cell["kills"]["landed"]) for cell in result["cells"]] == [(0, 0, 1)] * 2


def test_memory_error_of_a_body_ends_the_worker_and_a_late_acknowledged_job_runs_again(plain: Plain) -> None:
    task = ("--args", "orders.jsonl", "--effects", "shop.app:charges", "--fault", "out-of-memory", "--point=returned")
    _, result = plain.result("--task", "shop.charge_surely", *task, code=0)
    assert (result["cells"][0]["lost"], result["cells"][0]["duplicated"]) == (0, 2)
    done, result = plain.result("--task", "shop.charge_surely", "--promise", "effectively-once", *task, code=1)
    assert "so a death in between runs it again" in done.out


def test_clock_of_a_worker_that_jumps_repeats_a_late_acknowledged_job_on_stock_redis(plain: Plain) -> None:
    try:
        wall_clock.library()
    except EnvironmentNotReady as error:
        pytest.skip(str(error))
    done, result = plain.result(
        "--task", "shop.charge_late", "--args", "orders.jsonl", "--effects", "shop.app:charges", "--fault", "clock-jump",
        "--kills", "1", "--promise", "effectively-once", code=1,
    )  # fmt: skip
    assert (result["cells"][0]["lost"], result["cells"][0]["duplicated"]) == (0, 1)
    assert "kombu's Redis transport reads the clock of a worker" in done.out


def test_jobs_queued_in_a_redis_without_a_file_are_lost_with_it_by_either_transport(plain: Plain) -> None:
    done, result = plain.result(
        "--task", "shop.charge_surely", "--args", "orders.jsonl", "--fault", "broker-kill-off", "--broker", "redis", "reliable",
        "--kills", "1", code=1,
    )  # fmt: skip
    assert [(cell["broker"], cell["lost"]) for cell in result["cells"]] == [("redis", 2), ("reliable", 2)]
    assert done.out.count("Redis had no append-only file (appendonly yes), so what was queued died with it") == 2


SPAWNER = """
import subprocess
from celery import Celery

app = Celery("spawner")


@app.task(name="spawn", acks_late=True, reject_on_worker_lost=True)
def spawn(file):
    with open(file, "a") as pids:
        pids.write(f"{subprocess.Popen(['sleep', '600']).pid}\\n")
"""


def test_programs_that_a_task_started_end_with_the_run(plain: Plain) -> None:
    (plain.folder / "spawner.py").write_text(SPAWNER)
    pids = plain.folder / "pids"
    (plain.folder / "calls.jsonl").write_text(f"{json.dumps([str(pids)])}\n" * 3)
    done = plain.lab(
        *FEW, "--task", "spawn", "--args", str(plain.folder / "calls.jsonl"), "--fault", "kill-main",
        "--point", "returned", app="spawner:app", env={"PYTHONPATH": f"{PROJECT}{os.pathsep}{plain.folder}"},
    )  # fmt: skip
    assert done.code == 0, done.err
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) >= 5, "three jobs, two of them twice"
    try:
        left = [process for process in psutil.process_iter() if process.pid in started]
        until(lambda: not living(left), "the end of the programs")
    finally:
        for process in living(left):
            process.kill()


def test_bodies_that_fail_are_not_done(plain: Plain) -> None:
    done = plain.lab(
        *FEW[:2], "--task", "shop.fail", "--args", "orders.jsonl", "--fault", "none", "--promise", "at-least-once"
    )
    assert done.code == 1, done.err
    assert "ValueError: no such order: order-" in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "shop.chargee"], "Did you mean shop.charge"),
        (["--task", "shop.charge", "--args", "{folder}/bad.jsonl"], "bad.jsonl, line 2: "),
        (["--task", "shop.charge", "--args", "{folder}/wrong.jsonl"], "wrong.jsonl, line 1: shop.charge cannot be called"),
        (["--task", "shop.charge"], "without --args: shop.charge cannot be called like that"),
        (["--task", "shop.charge", "--args", "orders.jsonl", "--effects", "shop.app:nobody"], "cannot be imported"),
        (["--task", "shop.charge", "--args", "orders.jsonl", "--point", "claimed"], "never reaches claimed"),
        (["--task", "shop.charge", "--args", "orders.jsonl", "--point", "effect_done"], "never reaches effect_done"),
        (["--task", "shop.charge", "--args", "orders.jsonl", "--fault", "poison"], "it parks nothing"),
        (["--task", "shop.charge", "--args", "orders.jsonl", "--fault", "database-kill"], "servers that it starts"),
        (["--task", "shop.charge", "--args", "orders.jsonl", "--fault", "cut-claim"], "only connections to its broker"),
        (["--task", "shop.charge", "--args", "orders.jsonl", "--tasks", "7"], "more than the 6 lines"),
        (["--task", "shop.charge", "--args", "orders.jsonl", "--pattern", "inbox"], "--pattern is about the jobs of the demo"),
        (["--task", ""], "argument --task: the value is empty"),
        (["--task", "shop.charge", "--args", ""], "argument --args: the value is empty"),
        (["--task", "shop.charge", "--args", "orders.jsonl", "--effects", " "], "argument --effects: the value is empty"),
        (["--effects", "shop.app:charges", "--args", "x"], "--args, --effects would do nothing here"),
    ],
    ids=lambda value: str(value)[-40:],
)  # fmt: skip
def test_what_cannot_be_tried_is_code_2_and_a_sentence(
    standing: Callable[[list[str]], None],
    plain: Plain,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (plain.folder / "bad.jsonl").write_text('["a"]\n["b"\n', encoding="utf-8")
    (plain.folder / "wrong.jsonl").write_text('{"customer": "a"}\n', encoding="utf-8")
    with pytest.raises(SystemExit) as left:
        standing([argument.format(folder=plain.folder) for argument in arguments])
    captured = capsys.readouterr()
    assert left.value.code == 2
    assert said in captured.err
    assert captured.out == ""


@pytest.fixture(scope="module")
def standing() -> Iterator[Callable[[list[str]], None]]:
    """The command in this process, in the example's folder, with the example's app as the current one."""
    from celery import _state, current_app

    from tasks_demo.lab.management.commands.experiment import Command

    before = current_app._get_current_object()  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SHOP))
        patch.chdir(SHOP)
        # Its tasks are shared, and one names its queue: in the process of the tests, apps made later would inherit both.
        finalizers = set(_state._on_app_finalizers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CDeprecationWarning)
            app = import_module("shop.app").app
            app.finalize()
        _state._on_app_finalizers.intersection_update(finalizers)
        app.set_current()
        yield lambda arguments: Command().run_from_argv(["manage.py", "experiment", *arguments])
        _state._set_current_app(before)
        _state.set_default_app(before)
        for name in ("shop", "shop.app"):
            del sys.modules[name]


def test_lab_without_an_app_or_with_one_that_cannot_be_imported(plain: Plain) -> None:
    nothing, broken = plain.lab("--task", "shop.charge", app=""), plain.lab("--task", "shop.charge", app="shop.nowhere")
    taskless = plain.lab("--fault", "none")
    assert (nothing.code, broken.code, taskless.code) == (2, 4, 2)
    assert "Name a task" in taskless.sentence()
    assert "Name the Celery app" in nothing.sentence()
    assert "--app shop.nowhere cannot be imported" in broken.sentence()


def test_state_folder_that_cannot_be_used_is_code_4_and_a_sentence(plain: Plain) -> None:
    (plain.folder / "file").touch()
    (plain.folder / "taken" / "ledger.sqlite3").mkdir(parents=True)
    for state, why in {
        plain.folder / "file": "File exists",
        plain.folder / "file" / "below": "Not a directory",
        plain.folder / "taken": "unable to open database file",
    }.items():
        done = plain.lab("--task", "shop.charge", env={"STATE_DIR": str(state)})
        assert done.code == 4, done.err
        assert f"The state folder {state} (STATE_DIR) cannot be used: {why}. Nothing was run." in done.sentence()


def test_import_that_ends_with_an_error_or_ctrl_c_is_code_4_or_130_and_a_sentence(plain: Plain) -> None:
    (plain.folder / "needy.py").write_text("import os\nSECRET_KEY = os.environ['NOBODY_SETS_THIS']\n")
    (plain.folder / "leaves.py").write_text("raise SystemExit('usage: leaves')\n")
    (plain.folder / "slow.py").write_text("raise KeyboardInterrupt  # Ctrl-C while it is imported\n")
    env = {"PYTHONPATH": f"{PROJECT}{os.pathsep}{plain.folder}"}
    needy = plain.lab("--task", "x", app="", env={**env, "DJANGO_SETTINGS_MODULE": "needy"})
    leaves, slow = (plain.lab("--task", "x", app=f"{name}:app", env=env) for name in ("leaves", "slow"))
    assert (needy.code, leaves.code, slow.code) == (4, 4, 130), needy.err + leaves.err + slow.err
    assert slow.err == "Interrupted before anything ran.\n"
    assert "The lab cannot start here: KeyError: 'NOBODY_SETS_THIS'. Nothing was run." in needy.sentence()
    assert "--app leaves:app cannot be imported: SystemExit: usage: leaves. " in leaves.sentence()
