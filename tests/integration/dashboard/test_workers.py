"""The screens of workers and queues: who lives, on what evidence, for whom the pages are, and what they cost."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from typing import Any

import pytest
from celery import current_app
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoAssertNumQueries

from tasks_demo.core import clock
from tasks_demo.dashboard import broker_state, held_jobs
from tasks_demo.dashboard.held_jobs import dead_with_unresolved_jobs
from tasks_demo.dashboard.processes import worker
from tasks_demo.leases.process import this_process
from tasks_demo.ledger.database import alias
from tasks_demo.ledger.models import Event
from tests.integration.dashboard.worker_rows import elsewhere, row
from tests.integration.ledger.ledger_rows import append, event, killed, life, ok

pytestmark = [pytest.mark.django_db(transaction=True, databases="__all__"), pytest.mark.usefixtures("ledger")]

PAGE = "/admin/tasks_demo/tally/workers/"
HOSTILE = "<b>&'\"\u202e\n" + "x" * 200


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_state, "_last", broker_state.BrokerState())
    monkeypatch.setattr(held_jobs, "_remembered", OrderedDict())


def text(response: Any) -> str:
    assert response.status_code == 200
    return re.sub(r"\s+", " ", response.content.decode())


def test_evidence_decides_who_is_dead() -> None:
    states = [
        worker(each.pk)
        for each in (
            row("gone@t"),
            row("here@t", this_process("")),
            elsewhere("far@t", 1),
            elsewhere("quiet@t", 3600),
        )
    ]
    assert [found.state if found else "" for found in states] == ["dead", "alive", "alive", "silent"]
    # The pid was given to another process.
    me = this_process("")
    other = row("reused@t", type(me)(me.where, me.pid, "1", ""))
    found = worker(other.pk)
    assert found is not None
    assert found.state == "dead"


def test_job_of_a_killed_worker_that_was_charged_twice(staff: Client) -> None:
    append(killed("t"), ok("finished"))
    dead = row("w1@test")
    shown = text(staff.get(f"{PAGE}{dead.pk}/"))
    assert "Its body was begun once after that, last by w2@test, and it returned." in shown
    assert "twice, by the books “bank”" in shown
    assert "w2@test (pid 201)" in shown
    assert "/admin/tasks_demo/tally/t/change/" in shown
    assert "finished" not in shown, "what had ended and was acknowledged was not held"
    assert dead_with_unresolved_jobs() == []


def test_dead_worker_whose_job_is_done_needs_nobody() -> None:
    done = life("done", "published", "received", "started", "effect", "settled", pattern="acks_early")
    append(life("open", "published", "received", "started"), done)
    row("w1@test", held=["done", "open"])
    assert [many for _, many in dead_with_unresolved_jobs()] == [1]


def test_workers_page_searches_a_newly_dead_worker_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held_jobs, "RECENT_SECONDS", 3600.0)
    append(life("open", "published", "received", "started"), life("other", "published", "received", "started"))
    row("w1@test", held=["open", "other"])
    assert [many for _, many in dead_with_unresolved_jobs()] == [2]
    append([event("returned", 500, task_id="other", operation="other", pattern="acks_late", books="bank")])
    with CaptureQueriesContext(connections[alias()]) as queries:
        assert [many for _, many in dead_with_unresolved_jobs()] == [1]
    assert [each["sql"] for each in queries if "tasks_demo_event" in each["sql"]] == []


def test_workers_page_tells_workers_of_one_name_apart(staff: Client) -> None:
    append(life("t", "published", "received", "started"))
    first = Event.objects.get(kind="started")
    dead = row("w1@test", held=["t"])
    append([event("started", 40_000, task_id="t", operation="t", pattern="acks_late", worker="w1@test", pid=333)])
    later = Event.objects.latest("id").at
    row("w1@test", this_process(""), started_at=later)
    assert first.at < later
    shown = text(staff.get(f"{PAGE}{dead.pk}/"))
    assert "w1@test (pid 333)" in shown
    assert "run again" in shown
    ((found, many),) = dead_with_unresolved_jobs()
    assert (found.row.pk, many) == (dead.pk, 1)


def test_workers_page_says_what_is_not_known(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    append(*(life(f"t{number}", "published", "received", "started") for number in range(5)))
    dead = row("w1@test", held=["never-heard-of", HOSTILE], held_more=7)
    shown = text(staff.get(f"{PAGE}{dead.pk}/"))
    assert "not in the ledger" in shown
    assert "It held 7 jobs more than its report lists." in shown
    assert "&lt;b&gt;&amp;" in shown
    assert "<b>&" not in shown
    monkeypatch.setattr(held_jobs, "MOST_JOBS", 2)
    assert "2 of them were looked at" in text(staff.get(f"{PAGE}{row('w1@test').pk}/"))
    monkeypatch.setattr(held_jobs, "MOST_EVENTS", 3)
    assert "more than 3 events in its last seconds" in text(staff.get(f"{PAGE}{row('w1@test').pk}/"))
    assert staff.get(f"{PAGE}99999/").status_code == 404


def test_jobs_that_it_has_finished_do_not_hide_those_that_it_held(
    staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_jobs, "MOST_JOBS", 3)
    again = [
        event("received", 200, task_id="t5", operation="t5", worker="w1@test", pid=100, detail={"acks_late": True})
    ]
    append(*(ok(f"t{number}") for number in range(9)), life("open", "published", "received", "started"), again)
    found = worker(row("w1@test", held=["t1", "t2"]).pk)
    assert found is not None
    jobs = held_jobs.held_jobs(found)
    assert ({fate.task_id for fate in jobs.fates}, jobs.why_incomplete) == ({"open", "t5"}, "")


def test_workers_page_costs_a_bounded_number_of_queries(
    staff: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    append(*(killed(f"t{number}") for number in range(30)))
    rows = [row("w1@test") for _ in range(4)] + [elsewhere(f"far{number}@t", 3600) for number in range(120)]
    with django_assert_max_num_queries(5):  # session, user, two of permissions, workers
        assert "Only the latest 100 processes" in text(staff.get(PAGE))
    with django_assert_max_num_queries(11):
        text(staff.get(f"{PAGE}{rows[3].pk}/"))
    with django_assert_max_num_queries(12):
        dead_with_unresolved_jobs()


def test_queues_and_who_consumes_them(staff: Client, redis_url: str) -> None:
    shown = text(staff.get(f"{PAGE}broker/"))
    assert "nobody consumes it" in shown
    assert "No worker answers" in shown
    current_app.send_task("tasks_demo.unknown", task_id="old")
    broker_state._last.at = 0
    row("here@t", this_process(""), queues=["celery"])
    shown = text(staff.get(f"{PAGE}broker/", headers={"HX-Request": "true"}))
    assert re.search(r'data-label="waiting messages">1</td><td data-label="age of the oldest">[\d.]+ m?s</td>', shown)
    assert "here@t" in shown
    assert "nobody consumes it" not in shown
    assert "<html" not in shown


def test_broker_that_does_not_answer_is_said_in_time(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(current_app.conf, "broker_read_url", "redis://:swordfish@10.255.255.1:6379/0")
    monkeypatch.setitem(current_app.conf, "broker_url", "redis://:swordfish@10.255.255.1:6379/0")
    began = time.monotonic()
    shown = text(staff.get(f"{PAGE}broker/"))
    assert time.monotonic() - began < 2.0
    assert "The broker did not report its queues. No answer" in shown
    assert "swordfish" not in shown


def test_search_of_a_worker_that_reports_no_more_is_remembered(
    staff: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    append(life("t", "published", "received", "started"))
    long_ago = clock.from_epoch(time.time() - 2 * held_jobs.SETTLED_SECONDS)
    dead, just_now = worker(row("w1@test", seen_at=long_ago).pk), worker(row("w2@test", held=["t"]).pk)
    assert dead
    assert just_now
    for found, again in ((dead, 2), (just_now, 4)):
        for queries in (4, again):
            with django_assert_num_queries(queries):
                assert [fate.task_id for fate in held_jobs.held_jobs(found).fates] == ["t"]
    append(life("later", "published", "received", "started"))
    assert [fate.task_id for fate in held_jobs.held_jobs(dead).fates] == ["t"], "a dead process writes nothing more"
