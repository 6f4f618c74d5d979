"""``python -m tasks_demo.lab``: real kills of a Celery app that has no Django (examples/plain_celery)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import psutil
import pytest

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.lab.processes import wall_clock
from tests.lab.conftest import FEW, Plain
from tests.support import PROJECT, living, until

pytestmark = pytest.mark.timeout(420)


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


def test_late_acknowledged_task_loses_a_job_in_a_black_hole(plain: Plain) -> None:
    done, result = plain.result(
        "--task", "shop.charge_late", "--args", "orders.jsonl", "--effects", "shop.app:charges", "--fault", "black-hole",
        "--point", "fetched", "--kills", "1", code=1,
    )  # fmt: skip
    (cell,) = result["cells"]
    assert (cell["observed"], cell["lost"], cell["kills"]) == ("broken", 1, {"planned": 1, "landed": 1})
    assert "The connection ended between Redis popping the message and the worker recording it" in done.out


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
            "publishes an unconfirmed message again (task_publish_retry): a second message. ClaimFirst refuses it"
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
    assert (
        done.out.count("Redis had no append-only file (appendonly yes), so the queued messages were lost with it") == 2
    )


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
