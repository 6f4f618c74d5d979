"""docs/how-to/adopt.md in another project, with ledger and records in one SQLite file."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import PROJECT, STATE, Finished, Home, Worker, queued, until

#: The project's own files, with the lines of the README and nothing else of ours.
FILES = {
    "settings.py": """
        import os
        SECRET_KEY = "of a test"
        INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "tasks_demo", "tasks_demo.records", "stall"]
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["STALL_DATABASE"],
                                 "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20}}}
        DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
        USE_TZ = True
        CELERY_BROKER_URL = CELERY_RESULT_BACKEND = os.environ["STALL_REDIS"].replace("unix://", "redis+socket://", 1)
        CELERY_TASK_TIME_LIMIT = 300
        CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 900}
        CELERY_WORKER_PREFETCH_MULTIPLIER = 1
        TASKS_DEMO_REDIS_URL = os.environ["STALL_REDIS"]
    """,
    "celeryapp.py": """
        import os
        from celery import Celery
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
        app = Celery("stall")
        app.config_from_object("django.conf:settings", namespace="CELERY")
        app.autodiscover_tasks()
        from tasks_demo.hooks.bootsteps import NoticeChildDeath
        app.steps["worker"].add(NoticeChildDeath)
    """,
    "stall/__init__.py": "",
    "stall/tasks.py": """
        import os
        from tasks_demo.patterns import AcksLate, ClaimFirst, DedupLock, Inbox

        def note(line):
            with open(os.environ["STALL_DIARY"], "a") as diary:
                diary.write(line + "\\n")
            return line

        @DedupLock.task(bind=True, name="stall.charge", operation=lambda order_id, **_: f"charge:{order_id}")
        def charge(self, order_id, amount):
            return note(f"charge {order_id} {amount}")

        @ClaimFirst.task(bind=True, name="stall.call", operation=lambda order_id, **_: f"call:{order_id}")
        def call(self, order_id, amount):
            return note(f"call {order_id} {amount}")

        @Inbox.task(bind=True, name="stall.book", operation=lambda order_id, **_: f"book:{order_id}")
        def book(self, order_id, amount):
            return note(f"book {order_id} {amount}")
    """,
    "manage.py": """
        import os, sys
        from django.core.management import execute_from_command_line
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
        import celeryapp
        execute_from_command_line(sys.argv)
    """,
}


class StallWorker(Worker):
    """An ordinary worker of that project."""

    app = "celeryapp"


class Stall:
    """The project in its own folder."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder, self.diary = folder, folder / "diary"
        for name, text in FILES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(textwrap.dedent(text))
        self.home = Home(
            folder,
            extra={
                "PYTHONPATH": f"{folder}:{PROJECT}",
                "DJANGO_SETTINGS_MODULE": "settings",
                "STALL_DATABASE": str(folder / "db.sqlite3"),
                "STALL_REDIS": redis_url,
                "STALL_DIARY": str(self.diary),
            },
        )

    def run(self, *arguments: str) -> Finished:
        return self.home.run(*arguments, env=self.home.env(), cwd=self.folder)

    def manage(self, *arguments: str) -> Finished:
        return self.run("manage.py", *arguments)

    def python(self, code: str) -> Finished:
        return self.run("-c", f"import celeryapp, django\ndjango.setup()\n{code}")


@pytest.fixture(scope="module")
def stall() -> Iterator[Stall]:
    from tasks_demo.demo.stack import EmbeddedRedis

    folder = STATE / "stall"
    folder.mkdir()
    with EmbeddedRedis(folder / "redis", folder / "r.sock") as server:
        yield Stall(folder, server.url)


@pytest.fixture(scope="module")
def migrated(stall: Stall) -> Callable[..., Finished]:
    done = stall.manage("migrate", "-v0")
    assert done.code == 0, done.err
    return stall.manage


def test_adopting_project_has_no_migrations_left_and_passes_its_checks(migrated: Callable[..., Finished]) -> None:
    done = migrated("makemigrations", "--check", "--dry-run")
    assert (done.code, done.out.strip()) == (0, "No changes detected"), done.err
    done = migrated("check", "--tag", "celery", "--fail-level", "WARNING")
    assert (done.code, "no issues" in done.out + done.err) == (0, True), done.err


def test_demo_s_jobs_are_not_among_its_tasks(stall: Stall) -> None:
    done = stall.python(
        "celeryapp.app.loader.import_default_modules()\n"
        "print(*sorted(n for n in celeryapp.app.tasks if not n.startswith('celery.')))"
    )
    assert done.out.split() == ["stall.book", "stall.call", "stall.charge"], done.err


@pytest.mark.usefixtures("migrated")
def test_double_click_is_done_once_and_the_ledger_has_it(stall: Stall) -> None:
    worker = StallWorker(stall.home, stall.folder / "worker.log", {})
    worker.cwd = stall.folder
    with worker:
        names = ("charge", "call", "book")
        for _ in range(2):
            done = stall.python(
                "from stall import tasks\n"
                f"for name in {names}: getattr(tasks, name).apply_async(kwargs={{'order_id': 17, 'amount': 5}})"
            )
            assert done.code == 0, done.err
        count = (
            "from tasks_demo.ledger.models import Event\n"
            "print(Event.objects.filter(kind='suppressed').count(), Event.objects.filter(kind='started').count())"
        )
        until(lambda: stall.python(count).out.split() == ["3", "3"], "three jobs run, three suppressed", 60)
    assert queued(stall.home.extra["STALL_REDIS"]) == 0
    assert sorted(stall.diary.read_text().splitlines()) == ["book 17 5", "call 17 5", "charge 17 5"]
