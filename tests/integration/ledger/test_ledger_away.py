"""A ledger that hangs, is locked or has no tables: nobody waits for long, jobs go on, and what was missed is counted."""

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
from django.db import connection, connections

from tasks_demo.core.exceptions import LedgerUnavailable, StartNotRecorded
from tasks_demo.core.lifecycle import Point, Subject, about, reached
from tasks_demo.ledger import recorder as module
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.ledger.recorder import recorder
from tasks_demo.ledger.rows import GAP
from tasks_demo.ledger.store import store
from tasks_demo.ledger.verify import differences
from tests.integration.stranger import Stranger, opened
from tests.support import until

TASKS = ("charge", "book", "mail_receipt", "index", "count_view", "plain", "plain_late")


def subject(task_id: str, **more: Any) -> Subject:
    return Subject(task_id, task_id, "acks_late", "w@t", "", "shop.charge", **more)


@pytest.fixture
def fresh(ledger: None) -> Iterator[None]:
    store.close()
    yield
    store.close()


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Somebody else has the ledger's tables, and does not let go."""
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
    until(lambda: Event.objects.filter(kind=GAP).exists(), "the account of the gap", 15)
    return Event.objects.get(kind=GAP).detail


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("point", [Point.PUBLISHED, Point.STARTED])
def test_the_first_waits_a_second_at_most_the_others_not_at_all_and_all_is_written_later(
    point: Point, caplog: pytest.LogCaptureFixture
) -> None:
    with locked():
        first = timed(point, subject("t0"))
        others = [timed(point, subject(f"t{number}")) for number in range(1, 50)]
    assert first < 2.0
    assert sum(others) < 0.5
    until(lambda: Event.objects.filter(kind=point).count() == 50, "what was kept", 15)
    assert gap()["late"] == 50
    assert gap()["lost"] == 0
    assert gap()["late_by_task"] == {"shop.charge": 50}
    assert list(differences()) == []
    assert sum("kept for the next attempt" in record.message for record in caplog.records) == 1, "said once a minute"


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("how", ["of the task", "of the project"])
def test_a_start_that_is_needed_is_waited_for_and_then_refused(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "required", how == "of the project")
    monkeypatch.setitem(connections.settings["default"]["OPTIONS"], *_impatience())
    who = subject("t", needs_ledger=how == "of the task")
    with locked(), about(who), pytest.raises((LedgerUnavailable, StartNotRecorded)):
        reached(Point.STARTED)
    monkeypatch.undo()
    store.close()
    reached(Point.STARTED, subject("u"))
    until(lambda: Event.objects.filter(task_id="u").exists(), "the ledger's return", 15)
    assert not Tally.objects.filter(task_id="t").exists(), "it was not run"


def _impatience() -> tuple[str, Any]:
    return ("timeout", 0.3) if connection.vendor == "sqlite" else ("options", "-c lock_timeout=300ms")


@pytest.mark.usefixtures("fresh")
def test_what_does_not_fit_into_memory_is_counted_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_process_that_ends_meanwhile_does_not_wait_for_long_and_says_what_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with locked():
        reached(Point.STARTED, subject("t"))
        began = time.monotonic()
        recorder.close()
        assert time.monotonic() - began < 3.0
    assert "lost if this process ends now" in caplog.text
    until(lambda: Event.objects.filter(kind="started").exists(), "this one went on", 15)


# -- a project whose ledger does not work ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project() -> Iterator[Stranger]:
    with opened() as made:
        yield made


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"postgres://nobody@127.0.0.1:{server.getsockname()[1]}/ledger"


@pytest.mark.parametrize("trouble", ["its server never answers", "its tables are missing", "it is MySQL"])
def test_every_pattern_runs_though_the_ledger_does_not_work(
    project: Stranger, trouble: str, silent_server: str, tmp_path: Path
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
        "DATABASES": {"default": dict(default), "ops": ops},
        "DATABASE_ROUTERS": ["bookshop.routers.LedgerInOps"],
    }
    before = project.value("Payment.objects.count()")
    with project.worker(settings=settings) as worker:
        seconds = project.value(
            "took", settings=settings,
            before="import time\ntook = []\n"
            f"for name in {TASKS!r}:\n"
            "    began = time.monotonic()\n"
            f"    getattr(tasks, name).delay(order_id='{trouble} ' + name)\n"
            "    took.append(time.monotonic() - began)\n",
        )  # fmt: skip
        until(lambda: project.value("Payment.objects.count()") == before + 7, "seven payments", 30)
        assert "Traceback" not in worker.said.replace('Traceback (most recent call last):\n  File "<string>"', "")
    assert seconds[0] < 3.0, "it opens a connection to the broker, too, and waits for the ledger once"
    assert max(seconds[1:]) < 0.5, seconds
    if trouble == "it is MySQL":
        assert worker.said.count("it knows SQLite and PostgreSQL") >= 1
