"""The ledger is in the database that the project's router chooses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.bookshop import Bookshop, opened
from tests.support import until

TASKS = ("charge", "book", "mail_receipt", "index", "count_view", "plain", "plain_late")
EVENTS = "from tasks_demo.ledger.models import Event, Tally\nfrom django.db import connections\n"


@pytest.fixture(scope="module")
def routed() -> Iterator[Bookshop]:
    """A project whose router sends the ledger to the alias ``ops``; ``default`` has none of its tables."""
    with opened(settings={"DATABASE_ROUTERS": ["bookshop.routers.LedgerInOps"]}) as project:
        yield project


def test_database_every_pattern_runs_where_a_router_sends_the_ledger_elsewhere(routed: Bookshop) -> None:
    tables = routed.value(
        "[[t for t in connections[a].introspection.table_names() if t.startswith('tasks_demo') and 'records' not in t] "
        "for a in ('default', 'ops')]",
        before=EVENTS,
    )
    assert tables[0] == []
    assert "tasks_demo_event" in tables[1]
    with routed.worker() as worker:
        sent = routed.python(f"for name in {TASKS!r}:\n    getattr(tasks, name).delay(order_id=name)\n")
        assert sent.code == 0, sent.err
        until(
            lambda: routed.value("[Payment.objects.count(), Event.objects.filter(kind='returned').count()]", before=EVENTS)
            == [7, 7],
            f"seven payments; the worker said {worker.said[-3000:]}", 60,
        )  # fmt: skip
    assert routed.value("Tally.objects.filter(executions=1, publications=1).count()", before=EVENTS) == 7
    assert routed.manage("verify_ledger").code == 0
    task_id = routed.value("Tally.objects.filter(pattern='inbox').get().task_id", before=EVENTS)
    assert "started" in routed.manage("timeline", task_id).out
    page = (
        "from django.contrib.auth.models import User\nfrom django.test import Client\n"
        "client = Client()\nclient.force_login(User.objects.create_superuser('a'))\n"
    )
    urls = f"['/admin/tasks_demo/tally/?q={task_id[:8]}', '/admin/tasks_demo/tally/{task_id}/change/']"
    seen = routed.value(f"[client.get(u, HTTP_HOST='localhost').status_code for u in {urls}]", before=EVENTS + page)
    assert seen == [200, 200]


def test_database_that_we_do_not_speak_to_is_named_by_check(routed: Bookshop) -> None:
    mysql = {"ENGINE": "tests.integration.checks.mysql_like", "NAME": "shop"}
    done = routed.manage("check", "--tag", "celery", settings={"DATABASES": {"default": mysql, "ops": mysql}})
    assert done.err.partition("WARNINGS:")[0].count("tasks_demo.W018") == 2, done.err
    assert done.code == 1
    assert (
        "The ledger cannot be stored: the database 'ops' is MySQL, and only SQLite and PostgreSQL are supported"
        in done.err
    )
    assert "the records of its pattern cannot be stored: the database 'default' is MySQL" in done.err
    assert "tasks_demo.W018" not in routed.manage("check", "--tag", "celery").err
