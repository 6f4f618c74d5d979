"""What the rules find as warnings: one for a cause, never an exception, silent on what is safe."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from celery import Celery
from pytest_django import Settings

from tasks_demo.checks import NAMED, judge
from tasks_demo.patterns import AcksEarly, AcksLate
from tests.support import PROJECT
from tests.unit.checks.configurations import RABBIT, beat, declare, ids, locked, quarantined, shop


def test_judge_is_silent_on_a_safe_app() -> None:
    app = shop(
        {}, {"ignore_result": True}, quarantined(), locked(), {"base": AcksEarly},
        quarantined(autoretry_for=(OSError,), retry_backoff=True, max_retries=8),
        worker_deduplicate_successful_tasks=True, beat_schedule=beat(60),
    )  # fmt: skip
    assert judge(app) == []


def test_judge_is_silent_on_an_app_without_tasks() -> None:
    assert judge(shop()) == []


def test_judge_makes_one_warning_of_a_shared_cause() -> None:
    few = judge(shop(*[{"acks_late": True}] * 2))
    many = judge(shop(*[{"acks_late": True}] * (NAMED + 3)))
    assert [message.id for message in many] == ["tasks_demo.W003"]
    assert few[0].msg.startswith("2 tasks (shop.task0, shop.task1): acks_late without")
    assert many[0].msg.startswith(f"{NAMED + 3} tasks (shop.task0, ")
    assert "and 3 more): " in many[0].msg
    assert judge(shop({"acks_late": True}))[0].msg.startswith("Task shop.task0: ")


def test_judge_makes_two_warnings_of_two_causes() -> None:
    app = shop(quarantined(time_limit=1000), quarantined(time_limit=2000), quarantined(time_limit=2000))
    found = [message.msg for message in judge(app)]
    assert [text.partition(":")[0] for text in found] == ["Task shop.task0", "2 tasks (shop.task1, shop.task2)"]


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"broker_transport_options": {"visibility_timeout": "soon"}}, "could not convert string to float"),
        ({"broker_transport_options": 17}, "W001 could not be judged"),
        ({"beat_schedule": 17}, "W002 could not be judged"),
        ({"task_queues": 17}, "W004 could not be judged"),
        ({"accept_content": 17}, "W009 could not be judged"),
    ],
    ids=str,
)
def test_judge_names_what_cannot_be_read_and_never_raises(conf: dict[str, Any], said: str) -> None:
    found = [message for message in judge(shop(locked(), **conf)) if message.id == "tasks_demo.W000"]
    assert any(said in message.msg for message in found), found


def test_judge_names_a_setting_of_ours_that_cannot_work(settings: Settings) -> None:
    settings.TASKS_DEMO_LEASE_SECONDS = "long"
    (found,) = judge(shop(locked()))
    assert found.id == "tasks_demo.W000"
    assert "TASKS_DEMO_LEASE_SECONDS is 'long'; it must be float" in found.msg


def test_judge_names_a_contradictory_declaration() -> None:
    app = Celery("shop", set_as_current=False, fixups=[])
    declare(app, "shop.charge", base=AcksLate, reject_on_worker_lost=False)  # built when the app is first used
    (found,) = judge(app)
    assert found.id == "tasks_demo.W000"
    assert "reject_on_worker_lost=False contradicts the pattern acks_late" in found.msg


@pytest.mark.parametrize(
    "broker", ["", "nonsense", "redis://[", "redis://a;redis://b", ["redis://a", "redis://b"], "://"]
)
def test_judge_raises_nothing_on_strange_broker_addresses(broker: Any) -> None:
    redis = "redis://a" in broker or broker == "redis://["
    found = ids(shop(quarantined(time_limit=1000), broker_url=broker))
    # Without a scheme Celery uses its default, RabbitMQ.
    assert found == (["W001"] if redis else [] if broker == "://" else ["W022"])


def test_judge_is_silent_on_this_project_and_sees_its_tasks() -> None:
    # In a process of its own: other tests declare tasks in this one, wrong ones among them.
    seen = (
        "import django; django.setup()\n"
        "from celery import current_app\n"
        "from tasks_demo.checks import check_delivery\n"
        "print(check_delivery(), 'tasks_demo.charge_dedup_lock' in current_app.tasks)"
    )
    done = subprocess.run([sys.executable, "-c", seen], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"


def test_judge_recommends_no_hard_limit_without_saying_what_it_costs() -> None:
    for app in (shop(quarantined(time_limit=5000)), shop(quarantined(time_limit=5000), **RABBIT)):
        (found,) = (message for message in judge(app) if message.id in {"tasks_demo.W001", "tasks_demo.W020"})
        assert "is not run again" in (found.hint or "")
        assert "soft_time_limit" in (found.hint or "")
