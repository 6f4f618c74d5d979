"""An unsupported database is reported by check, doctor, enqueue, and the worker at boot and at each job."""

from __future__ import annotations

from typing import Any

import dj_database_url
import pytest

from tests.integration.bookshop import Bookshop
from tests.integration.doctor.test_other_projects import doctor, failed
from tests.support import until

MYSQL = {"ENGINE": "tests.integration.checks.mysql_like", "NAME": "records"}
#: What each message says of the alias ``records``.
SAID = {
    "MySQL": "the database 'records' is MySQL, and only SQLite and PostgreSQL are supported",
    "missing": "DATABASES has no database 'records', which a router or `using` names",
}
NEED_RECORDS = ("charge", "book", "mail_receipt", "index")


@pytest.fixture(params=list(SAID))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def elsewhere(bookshop: Bookshop, kind: str) -> dict[str, Any]:
    """Settings that put the records there; orders and ledger are in a supported database."""
    default = dict(dj_database_url.parse(bookshop.env()["BOOKSHOP_DATABASE_URL"]))
    ops = dict(dj_database_url.parse(bookshop.env()["BOOKSHOP_OPS_DATABASE_URL"]))
    return {
        "DATABASES": {"default": default, "ops": ops, **({"records": MYSQL} if kind == "MySQL" else {})},
        "DATABASE_ROUTERS": ["tests.integration.project_routers.RecordsElsewhere", "bookshop.routers.LedgerInOps"],
        "TASKS_DEMO_DEFER_MAX_SECONDS": 1,
    }


def test_check_is_an_error_and_stops_commands(bookshop: Bookshop, elsewhere: dict[str, Any], kind: str) -> None:
    for command in (["check", "--tag", "celery"], ["relay", "--once"]):
        done = bookshop.manage(*command, settings=elsewhere)
        assert done.code == 1, done.err
        errors = done.err.partition("ERRORS:")[2].partition("WARNINGS:")[0]
        assert "tasks_demo.W018" in errors
        assert SAID[kind] in done.err
        assert "orders.book" in done.err
        assert "Traceback" not in done.err
    skipped = bookshop.manage("relay", "--once", "--skip-checks", settings=elsewhere)
    assert (skipped.code, SAID[kind] in skipped.sentence()) == (4, True)


def test_doctor_fails_on_an_unsupported_database(bookshop: Bookshop, elsewhere: dict[str, Any], kind: str) -> None:
    code, rows = doctor(bookshop, elsewhere)
    assert code == 4
    assert failed(rows) >= {("settings", "system checks"), ("records", "table tasks_demo_records_claim")}, rows
    assert "tasks_demo.W018" in rows["settings", "system checks"]["seen"]
    assert SAID[kind] in rows["records", "table tasks_demo_records_claim"]["seen"]
    assert "silent" not in str(rows)
    assert ("records", "table tasks_demo_event") not in rows, "the ledger is well"


def test_enqueue_refuses(bookshop: Bookshop, elsewhere: dict[str, Any], kind: str) -> None:
    said = bookshop.value(
        "said", settings=elsewhere,
        before="from tasks_demo.outbox import enqueue\nfrom tasks_demo.core.exceptions import OutboxRefused\n"
        "try:\n    enqueue(tasks.plain, ('1',))\nexcept OutboxRefused as error:\n    said = str(error)\n",
    )  # fmt: skip
    assert SAID[kind] in said
    assert "Nothing was written" in said


def test_jobs_are_requeued_until_the_database_is_a_supported_one(
    bookshop: Bookshop, elsewhere: dict[str, Any], kind: str
) -> None:
    paid = (
        f"[Payment.objects.filter(order_id=f'{kind} {{name}}').count() for name in {(*NEED_RECORDS, 'count_view')!r}]"
    )
    with bookshop.worker(settings=elsewhere) as worker:
        until(lambda: "ERROR" in worker.said and "tasks_demo.W018" in worker.said, "the error at boot")
        send = f"for name in {(*NEED_RECORDS, 'count_view')!r}:\n    getattr(tasks, name).delay(order_id=f'{kind} {{name}}')\n"
        sent = bookshop.python(send, settings=elsewhere)
        assert (sent.code, "Traceback" in sent.err) == (0, False), sent.err
        for name in NEED_RECORDS:
            until(lambda name=name: _errors(worker.said, f"orders.{name}[", SAID[kind]), f"the error of {name}")
        until(lambda: bookshop.value(paid) == [0, 0, 0, 0, 1], "what needs no records")
        assert "raised unexpected" not in worker.said
        worker.stop(20)  # deferred copies return to the broker
    with bookshop.worker():
        until(lambda: bookshop.value(paid) == [1, 1, 1, 1, 1], "all: none was lost", 60)


def _errors(said: str, *texts: str) -> bool:
    return any("ERROR" in line and all(text in line for text in texts) for line in said.splitlines())


def test_own_statement_is_for_the_tenant_that_the_backend_sets(bookshop: Bookshop) -> None:
    databases = {"default": {}, "tenants": {"ENGINE": "tests.integration.core.tenants_like", "NAME": ":memory:"}}
    before = (
        "from django.db import connections\nfrom tasks_demo.core.databases import execute\nseen = []\n"
        "for tenant in ('one', 'two'):\n"
        "    connections['tenants'].tenant = tenant\n"
        "    seen += execute('tenants', \"SELECT tenant() || %s || '%%'\", ['?'])[1]\n"
        "execute('tenants', 'CREATE TABLE t (id integer)', ())\n"
        "seen.append(execute('tenants', 'INSERT INTO t VALUES (%s), (%s)', (1, 2)))"
    )
    assert bookshop.value("seen", before=before, settings={"DATABASES": databases}) == [["one?%"], ["two?%"], [2, []]]
