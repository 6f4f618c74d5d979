"""What Prometheus scrapes from real workers, as docs/how-to/metrics.md shows it."""

from __future__ import annotations

import logging.config
import re
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tasks_demo.core.lifecycle import Point, Reached, Subject
from tests.integration.bookshop import Bookshop
from tests.snippets import pieces
from tests.support import PROJECT, free_port, until

PAGE = (PROJECT / "docs/how-to/metrics.md").read_text(encoding="utf-8")
PIECES = list(pieces(PAGE, "metrics.md"))
SHOWN = next(piece.text for piece in PIECES if piece.text.startswith("tasks_demo_deliveries_total")).splitlines()
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
]
INSTALLED_APPS += [
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "tasks_demo",
    "tasks_demo.records",
    "orders",
]


def settings(block: int, port: int = 9808) -> dict[str, Any]:
    """The settings from one of the settings.py blocks of the page, selected by number."""
    files = [piece.text for piece in PIECES if piece.kind == "python" and piece.text.startswith("# proj/settings.py")]
    names: dict[str, Any] = {"INSTALLED_APPS": list(INSTALLED_APPS)}
    exec(files[block].replace("9808", str(port)), names)  # noqa: S102
    return {name: value for name, value in names.items() if name.isupper()}


def scraped(port: int) -> list[str]:
    answer = urllib3.request("GET", f"http://127.0.0.1:{port}/metrics", timeout=10, retries=False)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    return [line for line in answer.data.decode().splitlines() if not line.startswith("#")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "metrics"
    made.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(made))
    return made


@pytest.mark.usefixtures("folder")
def test_scrape_of_a_prefork_worker_reads_what_the_page_shows(bookshop: Bookshop) -> None:
    port = free_port()
    with bookshop.worker(settings=settings(0, port)) as worker:
        charge = "[tasks.charge.delay('metrics').get(timeout=30) for click in range(2)]"
        first, second = bookshop.value(charge, settings=settings(0, port))
        assert first == second
        seen: list[str] = []
        until(lambda: seen.clear() or seen.extend(scraped(port)) or set(SHOWN) <= set(seen), f"{SHOWN}, not {seen}")
        assert "No metrics" not in worker.said
        assert "PROMETHEUS_MULTIPROC_DIR" not in worker.said
    ours = {re.split(r"[{ ]", line)[0] for line in seen}
    known = set(re.findall(r"^\| `(tasks_demo_\w+)` \|", PAGE, re.MULTILINE))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in ours} <= known
    assert f"127.0.0.1:{9808}" in next(piece.text for piece in PIECES if "scrape_configs" in piece.text)


@pytest.mark.usefixtures("folder")
def test_metrics_second_worker_at_the_same_port_says_so_and_works(bookshop: Bookshop) -> None:
    port = free_port()
    with bookshop.worker(settings=settings(0, port)), bookshop.worker(settings=settings(0, port)) as second:
        until(lambda: "No metrics are served at TASKS_DEMO_METRICS_ADDRESS" in second.said, "its word about the port")
        assert bookshop.value("tasks.plain.delay('two workers').get(timeout=30)", settings=settings(0, port))


def test_prefork_worker_without_the_folder_says_what_is_not_served(
    bookshop: Bookshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    port = free_port()
    with bookshop.worker(settings=settings(0, port)) as worker:
        until(
            lambda: "PROMETHEUS_MULTIPROC_DIR is not set: the counts of pool processes are not served" in worker.said,
            "the warning",
        )


def test_scrape_while_the_tables_do_not_answer_says_so(bookshop: Bookshop, tmp_path: Path) -> None:
    port = free_port()
    with bookshop.worker("--pool=threads", settings=settings(0, port)):
        assert 'tasks_demo_records_up{database="default"} 1.0' in scraped(port)
        away = "from django.db import connection\nconnection.cursor().execute('ALTER TABLE %s RENAME TO %s')"
        there, gone = "tasks_demo_records_outboxmessage", "tasks_demo_records_outboxmessage_away"
        assert bookshop.python(away % (there, gone)).code == 0
        try:
            seen = scraped(port)
        finally:
            assert bookshop.python(away % (gone, there)).code == 0
        assert 'tasks_demo_records_up{database="default"} 0.0' in seen
        assert not [line for line in seen if "outbox_age" in line or "parked_waiting" in line]
        assert [line for line in seen if line.startswith("process_cpu")], "without the folder: this process, whole"


def _value(name: str, **labels: str) -> float:
    from prometheus_client import REGISTRY

    return REGISTRY.get_sample_value(name, labels) or 0.0


def _reach(point: Point, task: str = "celery.chain", task_id: str = "m") -> None:
    from tasks_demo.metrics.counters import counters

    counters(Reached(point, Subject(task_id, task_id, "acks_late", task=task), 0.0))


@pytest.mark.parametrize(
    ("point", "name"),
    [
        (Point.RECEIVED, "deliveries"),
        (Point.STARTED, "executions"),
        (Point.SUPPRESSED, "suppressed"),
        (Point.DEFERRED, "deferred"),
        (Point.LEASE_LOST, "lease_lost"),
        (Point.QUARANTINED, "parked"),
    ],
)
def test_metrics_count_each_point(point: Point, name: str) -> None:
    labels = {"task": "celery.chain", "pattern": "acks_late"}
    before = _value(f"tasks_demo_{name}_total", **labels)
    _reach(point)
    assert _value(f"tasks_demo_{name}_total", **labels) == before + 1


def test_execution_is_measured_once_however_it_ends() -> None:
    labels = {"task": "celery.chain", "pattern": "acks_late"}
    before = _value("tasks_demo_execution_seconds_count", **labels)
    for end in (Point.RETURNED, Point.FAILED, Point.DEFERRED):
        _reach(Point.STARTED)
        _reach(end)
        _reach(end)
    assert _value("tasks_demo_execution_seconds_count", **labels) == before + 3


def test_metrics_use_no_name_of_a_stranger_as_a_label() -> None:
    labels = {"task": "(unknown)", "pattern": "acks_late"}
    before = _value("tasks_demo_deliveries_total", **labels)
    _reach(Point.RECEIVED, task="no such task")
    assert _value("tasks_demo_deliveries_total", **labels) == before + 1


def test_metrics_count_an_unavailable_ledger() -> None:
    from tasks_demo.ledger.events import EventData
    from tasks_demo.ledger.gap import Gap

    _reach(Point.RECEIVED)
    before = (
        _value("tasks_demo_ledger_not_written_total", what="late"),
        _value("tasks_demo_ledger_not_written_total", what="lost"),
    )
    gap, row = Gap(), EventData(at=0.0, kind="started", source="m:1", task_id="m")
    gap.add_late([row, row])
    gap.add_lost(row)
    _reach(Point.RECEIVED)
    _reach(Point.RECEIVED)
    after = (
        _value("tasks_demo_ledger_not_written_total", what="late"),
        _value("tasks_demo_ledger_not_written_total", what="lost"),
    )
    assert (after[0] - before[0], after[1] - before[1]) == (2, 1)


def test_metrics_log_what_cannot_be_counted_and_fail_no_job(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tasks_demo.metrics import counters

    monkeypatch.setattr(counters, "COUNTERS", {Point.STARTED: None})
    _reach(Point.STARTED)
    assert "[m]: started was not counted" in caplog.text


@pytest.mark.django_db(databases="__all__")
def test_view_answers_with_the_same(rf: Any) -> None:
    from tasks_demo import metrics

    answer = metrics.view(rf.get("/metrics"))
    assert answer.status_code == 200
    assert b"tasks_demo_outbox_age_seconds" in answer.content


def test_metrics_page_shows_a_logging_that_has_the_fields() -> None:
    configured = settings(1)["LOGGING"]
    formatter = logging.config.DictConfigurator(configured).configure_formatter(dict(configured["formatters"]["job"]))
    record = logging.LogRecord("tasks_demo.patterns.requeue", logging.INFO, "", 0, "a line", (), None)
    assert "task_id=- operation=-: a line" in formatter.format(record)
    record.__dict__.update(task_id="t", operation="charge:1")
    assert "task_id=t operation=charge:1: a line" in formatter.format(record)
