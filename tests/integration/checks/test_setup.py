"""The system checks in another project: missing INSTALLED_APPS, and what only a worker's command line shows."""

from __future__ import annotations

import re

from tests.integration.bookshop import Bookshop

#: The project's own INSTALLED_APPS.
APPS = [f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "sessions", "messages", "staticfiles")]
APPS += ["tasks_demo", "tasks_demo.records", "orders"]


def without(*names: str) -> dict[str, list[str]]:
    return {"INSTALLED_APPS": [name for name in APPS if name not in names]}


def test_records_that_are_not_installed_are_missed(bookshop: Bookshop) -> None:
    done = bookshop.manage("check", settings=without("tasks_demo.records"))
    assert done.code == 0
    found = [line for line in done.err.splitlines() if "tasks_demo.W019" in line]
    named = " ".join(found)
    for task in ("orders.charge", "orders.book", "orders.mail_receipt", "orders.index", "orders.ship"):
        assert task in named, done.err
    assert "orders.count_view" not in named
    assert "orders.plain" not in named
    assert "HINT: Write 'tasks_demo.records' into INSTALLED_APPS" in done.err
    assert "W019" not in bookshop.manage("check", settings=without()).err


def test_app_itself_is_missed_where_the_records_are_installed(bookshop: Bookshop) -> None:
    done = bookshop.manage("check", settings=without("tasks_demo"))
    assert done.code == 0, done.err
    assert "(tasks_demo.W019) A pattern of tasks_demo is used, but 'tasks_demo' is not installed" in done.err


def test_app_itself_is_missed_where_only_the_tasks_are_imported(bookshop: Bookshop) -> None:
    done = bookshop.python(
        "from django.core.checks import run_checks\nprint(*[message.id for message in run_checks(tags=['celery'])])",
        settings=without("tasks_demo", "tasks_demo.records"),
    )
    assert done.out.split() == ["tasks_demo.W019"], done.err


def test_worker_says_that_its_pool_does_not_enforce_the_limits(bookshop: Bookshop) -> None:
    assert "does not enforce" not in bookshop.manage("check").err  # ``check`` cannot know the worker's command line
    with bookshop.worker("-P", "threads") as worker:
        said = worker.said
    assert "which the pool threads does not enforce" in said
    for number in ("W001", "W006", "W024"):
        assert re.search(rf"tasks_demo\.{number}: .*the pool threads does not enforce", said), said
    setting = bookshop.manage("check", settings={"CELERY_WORKER_POOL": "threads"})
    assert "(tasks_demo.W024) " in setting.err


def test_check_judges_every_app_of_a_project_by_its_own_settings(bookshop: Bookshop) -> None:
    done = bookshop.python(
        "import sys, types\n"
        "from celery import Celery\n"
        "def module(name):\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "    return sys.modules[name]\n"
        "reports, legacy, for_a_moment = module('reports'), module('legacy'), [Celery('moment', set_as_current=False)]\n"
        "reports.app = Celery('reports', broker='redis://', set_as_current=False)\n"
        "def nightly(): ...\n"
        "nightly.__module__ = 'reports'\n"
        "reports.app.task(name='reports.nightly', acks_late=True, reject_on_worker_lost=True)(nightly)\n"
        "legacy.producer = Celery('producer', set_as_current=False)\n"  # publishes, and has no task
        "from django.core.checks import run_checks\n"
        "print(*[f'{message.id} {message.msg}' for message in run_checks(tags=['celery'])], sep='\\n')\n"
        "from tasks_demo.doctor.celery_app import application\n"
        "print(application()[1].seen)\n"
    )
    assert done.code == 0, done.err
    *said, seen = done.out.splitlines()
    named = [
        line.partition(": acknowledged late")[0].partition(": reject_on")[0] for line in said if "Celery app" in line
    ]
    assert named == [f"tasks_demo.W00{n} Celery app reports:app: Task reports.nightly" for n in (1, 4, 8)], done.out
    assert seen == "bookshop; not examined: legacy:producer, reports:app (--app)"
