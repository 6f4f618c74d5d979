"""``tasks_demo.testing`` and eager mode in another project: its own suite, run as its owner would, without any service.

The project and its tests come from docs/how-to/testing.md itself; beside them is a suite that uses nothing of ours.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import forks
from tests.integration.bookshop import Bookshop
from tests.integration.servers.postgres import own_postgres
from tests.support import PROJECT, STATE, Finished

PAGE = PROJECT / "docs" / "how-to" / "testing.md"
FILES = {
    "settings.py": """
        import os
        import dj_database_url
        SECRET_KEY = "of a test"
        INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "tasks_demo", "tasks_demo.records", "shop"]
        DATABASES = {"default": dj_database_url.parse(os.environ["SHOP_URL"])}
        if os.environ.get("SHOP_TEST_NAME"):
            DATABASES["default"]["TEST"] = {"NAME": os.environ["SHOP_TEST_NAME"]}
        DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
        USE_TZ = True
        CELERY_BROKER_URL = "redis://127.0.0.1:1/0"
        CELERY_TASK_ALWAYS_EAGER = True
        TASKS_DEMO_REDIS_URL = os.environ.get("SHOP_LEASES", "redis://127.0.0.1:1/0")
    """,
    "celeryapp.py": """
        import os
        from celery import Celery
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
        app = Celery("shop")
        app.config_from_object("django.conf:settings", namespace="CELERY")
        app.autodiscover_tasks()
    """,
    "manage.py": """
        import sys
        import celeryapp
        from django.core.management import execute_from_command_line
        execute_from_command_line(sys.argv)
    """,
    "shop/__init__.py": "import celeryapp",
    "shop/apps.py": """
        from django.apps import AppConfig
        class ShopConfig(AppConfig):
            name = "shop"
    """,
    # The suite of a team that does not know tasks_demo.testing.
    "plain/__init__.py": "",
    "plain/test_plain.py": """
        from django.test import SimpleTestCase, TestCase, TransactionTestCase
        from celery import shared_task
        from shop import tasks
        from shop.models import Note, Payment
        from tasks_demo.core.exceptions import NothingToRequeue
        from tasks_demo.ledger.models import Event

        @shared_task
        def nothing():
            return "nothing"

        class One:
            def test_eager_task_and_no_row_of_an_earlier_test(self):
                self.assertEqual(Event.objects.count(), 0)
                self.assertEqual(Note.objects.count(), 0)
                with self.assertNumQueries(1):
                    self.assertEqual(tasks.count_view.delay("home").state, "SUCCESS")
                self.assertEqual(tasks.book.delay(17).state, "SUCCESS")
                self.assertEqual(tasks.book.delay(17).state, "SUCCESS")
                self.assertEqual(Payment.objects.count(), 1)
                tasks.send_receipt.delay(17)
                tasks.send_receipt.delay(17)
                self.assertEqual(Note.objects.count(), 2)

        class InATransaction(One, TestCase):
            def test_lock_that_is_not_there_is_said_at_once(self):
                self.assertIsInstance(tasks.charge.delay(17).result, NothingToRequeue)

            def test_same_once_more(self):
                self.test_eager_task_and_no_row_of_an_earlier_test()

        class WithCommits(One, TransactionTestCase):
            def test_same_once_more(self):
                self.test_eager_task_and_no_row_of_an_earlier_test()

        class WithoutDatabase(SimpleTestCase):
            def test_task_that_asks_no_database(self):
                self.assertEqual(nothing.delay().get(), "nothing")
    """,
}


def blocks() -> dict[str, str]:
    """The files of the page: the first line of each python block is its file name."""
    found = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(found) == PAGE.read_text().count("```python"), "a block without the name of its file"
    return dict(found)


class Shop:
    """The project in its own folder."""

    def __init__(self, folder: Path, url: str, test_name: str) -> None:
        self.folder, self.url, self.test_name = folder, url, test_name
        for name, text in {**FILES, **blocks()}.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(textwrap.dedent(text))
        for command in (["makemigrations", "shop"], ["check", "--tag", "models"]):
            done = self.run("manage.py", *command)
            assert done.code == 0, done.err

    def run(self, *arguments: str, **more: str) -> Finished:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("TASKS_DEMO_", "PYTEST_"))
        }
        env = {
            **inherited,
            "PYTHONPATH": f"{self.folder}:{PROJECT}",
            "DJANGO_SETTINGS_MODULE": "settings",
            "SHOP_URL": self.url,
            "SHOP_TEST_NAME": self.test_name,
            **more,
        }
        return Finished(*forks.run(arguments, cwd=self.folder, env=env, timeout=120))

    def django(self, *arguments: str, **more: str) -> Finished:
        return self.run("-W", "error::ResourceWarning", "manage.py", "test", "--noinput", *arguments, **more)

    def pytest(self, *arguments: str, **more: str) -> Finished:
        return self.run("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={self.folder}", *arguments, **more)


@pytest.fixture(scope="module", params=["memory", "file", "postgres"])
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shop-", dir=STATE)))
        if request.param == "postgres":
            yield Shop(folder, stack.enter_context(own_postgres()).url("postgres"), "")
        else:
            test_name = str(folder / "test.sqlite3") if request.param == "file" else ""
            yield Shop(folder, f"sqlite:///{folder / 'db.sqlite3'}", test_name)


def passed(done: Finished, count: int) -> None:
    said = done.out + done.err
    assert done.code == 0, said[-4000:]
    assert re.search(rf"Ran {count} tests?|\b{count} passed", said), said[-2000:]
    assert "accessed by other users" not in said


def test_suite_that_uses_nothing_of_ours_passes_twice_in_any_order(shop: Shop) -> None:
    for order in (["--shuffle"], ["--shuffle", "--reverse", "--parallel", "2"]):
        passed(shop.django("plain", "shop.test_with_django", *order), 6 + 4)


def test_testing_page_s_suites_pass_with_pytest(shop: Shop) -> None:
    if shop.test_name:
        pytest.skip("as in memory")
    order = ["-p", "no:xdist"] if "sqlite" in shop.url else ["-n", "2"]
    passed(shop.pytest("shop", *order), 14)  # and one that is meant to fail


def test_leases_in_memory_by_the_settings_alone(shop: Shop) -> None:
    if shop.test_name or "sqlite" not in shop.url:
        pytest.skip("the database has no part in it")
    test = """
        from django.test import TestCase
        class Setting(TestCase):
            def test_it(self):
                from shop import tasks
                from shop.models import Payment
                self.assertEqual([tasks.charge.delay(17).state for _ in range(2)], ["SUCCESS"] * 2)
                self.assertEqual(Payment.objects.count(), 1)
    """
    (shop.folder / "plain" / "test_memory.py").write_text(textwrap.dedent(test))
    try:
        passed(shop.django("plain.test_memory", SHOP_LEASES="memory://"), 1)
    finally:
        (shop.folder / "plain" / "test_memory.py").unlink()


@pytest.mark.django_db(databases="__all__")
def test_markers_on_a_real_redis_are_of_one_test_and_do_not_stay_for_long(redis_url: str) -> None:
    import redis
    from celery import current_app

    from tasks_demo.patterns import DedupLock
    from tasks_demo.testing import State, deliver, isolated, redeliver, skip_time

    ran: list[int] = []
    options: dict[str, Any] = {"base": DedupLock, "operation": lambda *_, **__: "one"}

    def body(order: int) -> None:
        ran.append(order)

    task = current_app.task(body, shared=False, name="testing.on_redis", **options)
    for _ in range(2):
        with isolated(redis_url):
            done = deliver(task, (17,))
            assert redeliver(done.task_id).state is State.SUPPRESSED
            with pytest.raises(RuntimeError, match="leases in memory"):
                skip_time(1)
    assert len(ran) == 2
    with redis.Redis.from_url(redis_url) as client:
        left = client.keys("*:test:*")
        assert left
        assert all(0 < client.ttl(key) <= 3600 for key in left)
        client.delete(*left)


def test_example_s_own_suite_passes_twice(bookshop: Bookshop) -> None:
    """The second time with the ledger in another database, through the project's router."""
    for order in (["--shuffle"], ["--reverse"]):
        passed(bookshop.manage("test", "--noinput", *order), 4)
