"""A ledger that hangs, is locked or has no tables: nobody waits long, jobs go on, and missed events are counted."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dj_database_url
import pytest
from celery import current_app
from django.db import connection, connections
from django.test import Client

from tasks_demo.checks.setup import Setup
from tasks_demo.core.exceptions import LedgerUnavailable, StartNotRecorded
from tasks_demo.core.lifecycle import Point, Subject, about, reached
from tasks_demo.doctor.findings import State
from tasks_demo.doctor.records import records
from tasks_demo.ledger import record_effect
from tasks_demo.ledger import writer as module
from tasks_demo.ledger.events import GAP
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.ledger.recorder import recorder
from tasks_demo.ledger.store import store
from tasks_demo.ledger.verify import differences
from tests.integration.bookshop import Bookshop, opened
from tests.support import until

TASKS = ("charge", "book", "mail_receipt", "index", "count_view", "plain", "plain_late")


def subject(task_id: str, **more: Any) -> Subject:
    return Subject(task_id, task_id, "acks_late", "w@t", "", "shop.charge", **more)


@pytest.fixture
def fresh(ledger: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(recorder, "wait_seconds", 1.0)
    store.close()
    yield
    store.close()


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Another connection locks the ledger's tables and keeps them."""
    if connection.vendor == "sqlite":
        with contextlib.closing(sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
        return
    other = connections.create_connection("default")
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("LOCK TABLE tasks_demo_event IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        other.close()


def timed(point: Point, who: Subject) -> float:
    began = time.monotonic()
    reached(point, who)
    return time.monotonic() - began


def gap() -> dict[str, Any]:
    until(lambda: Event.objects.filter(kind=GAP).exists(), "the account of the gap")
    return Event.objects.get(kind=GAP).detail


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("point", [Point.PUBLISHED, Point.STARTED])
def test_writer_waits_a_second_at_most_and_writes_the_rest_later(
    point: Point, caplog: pytest.LogCaptureFixture
) -> None:
    with locked():
        first = timed(point, subject("t0"))
        others = [timed(point, subject(f"t{number}")) for number in range(1, 50)]
    assert first < 2.0
    assert sum(others) < 0.5
    until(lambda: Event.objects.filter(kind=point).count() == 50, "what was kept")
    assert gap()["late"] == 50
    assert gap()["lost"] == 0
    assert gap()["late_by_task"] == {"shop.charge": 50}
    assert list(differences()) == []
    assert sum("kept for the next attempt" in record.message for record in caplog.records) == 1, "said once a minute"


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("how", ["of the task", "of the project"])
def test_writer_start_that_is_needed_is_waited_for_and_then_refused(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "required", how == "of the project")
    impatience = ("timeout", 0.3) if connection.vendor == "sqlite" else ("options", "-c lock_timeout=300ms")
    monkeypatch.setitem(connections.settings["default"]["OPTIONS"], *impatience)
    who = subject("t", needs_ledger=how == "of the task")
    with locked(), about(who), pytest.raises((LedgerUnavailable, StartNotRecorded)):
        reached(Point.STARTED)
    monkeypatch.undo()
    store.close()
    reached(Point.STARTED, subject("u"))
    until(lambda: Event.objects.filter(task_id="u").exists(), "the ledger's return")
    assert not Tally.objects.filter(task_id="t").exists(), "it was not run"


@pytest.mark.usefixtures("fresh")
def test_writer_what_does_not_fit_into_memory_is_counted_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 10)
    with locked():
        for number in range(30):
            reached(Point.STARTED, subject(f"t{number}"))
    detail = gap()
    assert detail["late"] + detail["lost"] == 30
    assert detail["lost"] >= 10
    assert Event.objects.filter(kind="started").count() == detail["late"]
    assert list(differences()) == []


@pytest.mark.usefixtures("fresh")
def test_process_that_ends_meanwhile_does_not_wait_for_long_and_says_what_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with locked():
        reached(Point.STARTED, subject("t"))
        began = time.monotonic()
        recorder.close()
        assert time.monotonic() - began < 3.0
    assert "of this process not written" in caplog.text
    until(lambda: Event.objects.filter(kind="started").exists(), "this one went on")


@pytest.mark.usefixtures("fresh")
def test_recorded_effect_is_waited_for_a_second_at_most_and_written_once() -> None:
    assert record_effect("order:1", key="before") is True
    with locked(), about(subject("t")):
        took = []
        for key in ("before", "a", "a", "", ""):
            began = time.monotonic()
            assert record_effect("order:1", key=key) is False
            took.append(time.monotonic() - began)
    assert took[0] < 2.0
    assert sum(took[1:]) < 0.5
    assert gap()["late_by_task"] == {"shop.charge": 5}
    assert Event.objects.filter(kind="effect").count() == 4
    assert list(differences()) == []


@pytest.mark.django_db(transaction=True, databases="__all__")
@pytest.mark.usefixtures("fresh")
def test_gap_is_shown_by_the_doctor_and_on_the_pages_of_its_tasks(
    admin_client: Client,
) -> None:
    reached(Point.RETURNED, subject("ended before"))
    recorder.flush()
    until(lambda: Tally.objects.exists(), "the first")
    quiet = {row.what: row for row in records(Setup(current_app, ()))}["gaps in the ledger"]
    assert (quiet.state, quiet.seen) == (State.OK, "none in the last 24 h")
    assert "could not reach the ledger" not in page(admin_client, "/admin/tasks_demo/tally/")
    with locked():
        reached(Point.PUBLISHED, subject("touched"))
        reached(Point.STARTED, subject("touched"))
    gap()
    said = "1 process could not reach the ledger: no events lost, 2 written late."
    row = {row.what: row for row in records(Setup(current_app, ()))}["gaps in the ledger"]
    assert (row.state, row.seen.startswith(said), "last until 20" in row.seen) == (State.WARN, True, True), row
    assert said in page(admin_client, "/admin/tasks_demo/tally/")
    assert said in page(admin_client, "/admin/tasks_demo/tally/touched/change/")
    assert "could not reach" not in page(admin_client, "/admin/tasks_demo/tally/ended%20before/change/")


def page(client: Client, url: str) -> str:
    return " ".join(client.get(url, follow=True).content.decode().split())


# -- a project whose ledger does not work ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project() -> Iterator[Bookshop]:
    with opened() as made:
        yield made


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"postgres://nobody@127.0.0.1:{server.getsockname()[1]}/ledger"


@pytest.mark.parametrize(
    "trouble", ["its server never answers", "its tables are missing", "it is MySQL", "its alias is in no DATABASES"]
)
def test_writer_every_pattern_runs_though_the_ledger_does_not_work(
    project: Bookshop, trouble: str, silent_server: str, tmp_path: Path
) -> None:
    ops: dict[str, Any] = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "empty.sqlite3")}
    if trouble == "its server never answers":
        ops = dict(dj_database_url.parse(silent_server))
    elif trouble == "it is MySQL":
        ops = {"ENGINE": "tests.integration.checks.mysql_like", "NAME": "ledger"}
    shop = project.value("settings.DATABASES['default']['NAME']", before="from django.conf import settings")
    default = dj_database_url.parse(project.env()["BOOKSHOP_DATABASE_URL"])
    assert shop
    settings = {
        "DATABASES": {"default": dict(default), **({} if "alias" in trouble else {"ops": ops})},
        "DATABASE_ROUTERS": ["bookshop.routers.LedgerInOps"],
    }
    with project.worker(settings=settings) as worker:
        seconds = project.value(
            "took", settings=settings,
            before="import time\ntook = []\n"
            f"for name in {TASKS!r}:\n"
            "    began = time.monotonic()\n"
            f"    getattr(tasks, name).delay(order_id='{trouble} ' + name)\n"
            "    took.append(time.monotonic() - began)\n",
        )  # fmt: skip
        # Not all of them: the job that the last lines publish is left to the next worker.
        paid = f"Payment.objects.filter(order_id__startswith={trouble!r}).count()"
        until(lambda: project.value(paid) == 7, "seven payments", 30)
        assert "Traceback" not in worker.said.replace('Traceback (most recent call last):\n  File "<string>"', "")
    assert seconds[0] < 3.0, "it opens a connection to the broker, too, and waits for the ledger once"
    assert max(seconds[1:]) < 0.5, seconds
    said = {
        "it is MySQL": "the database 'ops' is MySQL",
        "its alias is in no DATABASES": "DATABASES has no database 'ops'",
    }
    if trouble in said:
        assert f"The ledger cannot be stored: {said[trouble]}" in worker.said
        ended = project.python("tasks.plain.delay(order_id='one more')", settings=settings)
        assert (ended.code, "Traceback" in ended.err) == (0, False), ended.err
