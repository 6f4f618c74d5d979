"""The overview that many watch: what a server process draws once for all who see the same, and for nobody else."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from tasks_demo.dashboard import live, needs, overview
from tasks_demo.ledger import rollups
from tasks_demo.ledger.database import alias
from tests.integration.dashboard.overview_page import PAGE, by_itself, cells, polled
from tests.integration.dashboard.pages import somebody
from tests.integration.ledger.ledger_rows import append, lost, ok
from tests.integration.quarantine.parked_rows import lying

pytestmark = [pytest.mark.django_db(transaction=True, databases="__all__"), pytest.mark.usefixtures("ledger")]

NEW = ">Start one</a>"


@pytest.fixture(autouse=True)
def _by_itself(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    by_itself(settings, monkeypatch)


@pytest.fixture
def shared(_by_itself: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was drawn for one poll answers others until the test ends."""
    monkeypatch.setattr(overview, "_counts", needs.AnswerCache(3600.0))
    monkeypatch.setattr(overview, "_drawn", needs.AnswerCache(3600.0))


def test_overview_is_drawn_once_for_all_who_see_the_same(admin_client: Client, shared: None) -> None:
    append(lost("broken"))
    assert rollups.fold(5)
    seen = polled(somebody(Client(), "one", "view_tally"))
    other = somebody(Client(), "other", "view_tally")
    append(ok("fine"))
    assert rollups.fold(5)
    with CaptureQueriesContext(connections[alias()]) as queries:
        assert polled(other) == seen
    read = {name for each in queries for name in re.findall(r'(?:FROM|JOIN) "(\w+)"', each["sql"])}
    assert not {name for name in read if name.startswith("tasks_demo")}
    # A page that somebody loads is as new as the database, and so is what everybody gets from then on.
    assert cells(other.get(PAGE).content.decode(), "acks_late")["task IDs"] == 2
    assert cells(polled(other), "acks_late")["task IDs"] == 2


def test_overview_shows_nobody_what_was_drawn_for_another_s_permissions(
    admin_client: Client, shared: None, settings: Settings, tmp_path: Path
) -> None:
    append(ok("a"))
    lying()
    assert rollups.fold(5)
    looks = somebody(Client(), "looks", "view_tally")
    watches = somebody(Client(), "watches", "view_tally", "view_experiment")
    runs = somebody(Client(), "runs", "view_tally", "view_experiment", "run_experiment")
    settings.TASKS_DEMO_LAB_ENABLED, settings.STATE_DIR = True, tmp_path
    everything = polled(admin_client)
    assert ["1 parked message" in everything, "Last experiments" in everything] == [True, True]
    nothing = polled(looks)
    assert ["1 parked message" in nothing, "Last experiments" in nothing] == [False, False]
    assert [NEW in polled(client) for client in (admin_client, runs, watches)] == [True, True, False]
    assert 'href="/admin/tasks_demo/tally/experiments/new/"' in polled(runs)


def test_overview_of_an_empty_ledger_names_nobody_the_first_steps_of_another(
    admin_client: Client, shared: None
) -> None:
    assert "/publish/" in polled(admin_client)
    assert "/publish/" not in polled(somebody(Client(), "looks", "view_tally"))


def test_overview_is_drawn_for_each_period_and_time_zone(
    admin_client: Client, shared: None, settings: Settings
) -> None:
    append(ok("a"))
    assert rollups.fold(5)
    assert 'period=hour" aria-current="true"' in polled(admin_client)
    assert 'period=week" aria-current="true"' in polled(admin_client, "?period=week")
    assert 'period=hour" aria-current="true"' in polled(admin_client)
    settings.TIME_ZONE = "Asia/Kathmandu"
    assert "+05:45" in polled(admin_client)
    settings.TIME_ZONE = "UTC"
    assert "+05:45" not in polled(admin_client)


def test_overview_shared_by_many_answers_each_with_nothing_if_nothing_has_changed(
    admin_client: Client, shared: None
) -> None:
    append(ok("a"))
    assert rollups.fold(5)
    mark = admin_client.get(PAGE, headers={"HX-Request": "true"})[live.MARK]
    again = {"HX-Request": "true", live.MARK: mark}
    assert admin_client.get(PAGE, headers=again).status_code == 204
    assert admin_client.get(f"{PAGE}?period=day", headers=again).status_code == 200
    append(ok("b"))
    assert rollups.fold(5)
    admin_client.get(PAGE)
    assert admin_client.get(PAGE, headers=again).status_code == 200


def test_overview_asks_once_for_many_threads_and_keeps_an_answer_for_each_place() -> None:
    asked: list[str] = []
    kept, met = needs.AnswerCache[str](3600.0), threading.Barrier(8)

    def ask(place: str) -> str:
        asked.append(place)
        for _ in range(1_000):
            time.sleep(0)  # let the other threads run
        return f"answer of {place}"

    def get(number: int) -> str:
        met.wait(30)
        place = "ab"[number % 2]
        return kept.get(lambda: ask(place), place)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(get, range(8))) == ["answer of a"] * 4 + ["answer of b"] * 4
    assert sorted(asked) == ["a", "b"]


def test_kept_answer_of_a_page_is_not_replaced_by_a_poll_that_began_before_it() -> None:
    kept = needs.AnswerCache[str](3600.0)

    def slow_poll() -> str:
        assert (
            kept.get(lambda: "after the action", refresh=True) == "after the action"
        )  # a page, while the poll is drawn
        return "before the action"

    assert kept.get(slow_poll) == "before the action"
    assert kept.get(lambda: "asked again") == "after the action"
