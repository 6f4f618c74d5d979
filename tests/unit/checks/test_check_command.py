"""The checks in manage.py check, in installed apps, and on their page."""

from __future__ import annotations

import re

import pytest
from django.core.management import call_command
from pytest_django import Settings

from tasks_demo.checks.rules import RULES
from tasks_demo.core.installed import check_installed
from tests.support import PROJECT, Home
from tests.unit.checks.configurations import REDIS


def test_check_command_shows_warnings_and_django_silences_them(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.TASKS_DEMO_RETENTION_SECONDS = 60
    call_command("check", "--tag", "celery")
    shown = capsys.readouterr().err
    assert re.search(r"\(tasks_demo\.W011\) \d+ tasks", shown), shown
    assert "TASKS_DEMO_RETENTION_SECONDS is 60 s" in shown
    assert "HINT: Write TASKS_DEMO_RETENTION_SECONDS well above 512" in shown  # the longest pause of a retry
    settings.SILENCED_SYSTEM_CHECKS = ["tasks_demo.W011"]
    call_command("check", "--tag", "celery")
    assert "W011" not in capsys.readouterr().err


def test_check_command_imports_the_tasks_and_needs_no_server(home: Home) -> None:
    done = home.manage("check", env={"REDIS_URL": REDIS, "TASKS_DEMO_LEASE_SECONDS": "6"})
    assert done.code == 0
    assert "(tasks_demo.W010) Task tasks_demo.charge_dedup_lock: " in done.sentence()
    assert "secret" not in done.err


def test_check_command_names_a_task_module_that_cannot_be_imported(home: Home) -> None:
    done = home.python(
        "from celery import Celery\n"
        "from django.core.checks import run_checks\n"
        "Celery('shop', include=['shop.no_such_module']).set_current()\n"
        "for message in run_checks(tags=['celery']): print(message.id, message.msg)\n"
    )
    assert done.code == 0, done.err
    assert (
        "tasks_demo.W000 A task module cannot be imported, so its tasks were not judged: ModuleNotFoundError"
        in done.out
    )


def test_check_page_has_a_row_for_every_check() -> None:
    page = (PROJECT / "docs" / "reference" / "checks.md").read_text(encoding="utf-8")
    for number in ("W000", *RULES):
        assert f"| `tasks_demo.{number}` |" in page


def test_check_names_our_app_if_it_is_not_installed(settings: Settings) -> None:
    assert check_installed() == []
    settings.INSTALLED_APPS = [name for name in settings.INSTALLED_APPS if name != "tasks_demo"]
    (found,) = check_installed()
    assert "'tasks_demo' is not installed" in found.msg
