"""The overview: its numbers, what they link to, what it reads, and what needs a person."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from tasks_demo.dashboard import live, needs, overview, series
from tasks_demo.ledger import rollups
from tasks_demo.ledger.database import alias
from tasks_demo.ledger.models import Tally
from tasks_demo.records.models import OutboxMessage, Parked
from tests.integration.dashboard.overview_page import PAGE, by_itself, cells
from tests.integration.dashboard.pages import somebody
from tests.integration.dashboard.worker_rows import row
from tests.integration.ledger.ledger_rows import append, event, killed, life, lost, ok
from tests.integration.quarantine.parked_rows import lying

pytestmark = [pytest.mark.django_db(transaction=True, databases="__all__"), pytest.mark.usefixtures("ledger")]

#: Of the page, on the ledger's database: session and user, what needs a person, counts. In the tests' PostgreSQL the tables of
#: the patterns are there too.
MOST_QUERIES = {"sqlite": 16, "postgresql": 17}


@pytest.fixture(autouse=True)
def _by_itself(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    by_itself(settings, monkeypatch)


def shown(client: Client, query: str = "") -> str:
    """The page, after everything was counted."""
    assert rollups.fold(5)
    response = client.get(PAGE + query)
    assert response.status_code == 200
    return response.content.decode()


def test_overview_links_each_number_to_exactly_those_task_ids(admin_client: Client) -> None:
    append(ok("a", task="shop.charge"), killed("b"), lost("c", task="shop.charge"), killed("d", pattern="dedup_lock"))
    append(life("e", "published", "received", "started", "failed", pattern="", books="", task="shop.mail"))
    append(life("f", "received", "started", task="shop.charge"))
    append(
        life("waits", "published", task="shop.mail"), life("never-received", "published", "settled", task="shop.mail")
    )
    text = shown(admin_client)
    links = re.findall(r'href="(/admin/tasks_demo/tally/\?[^"]*)" aria-label="(\d+) ', text)
    assert len(links) > 10
    for address, number in links:
        response = admin_client.get(address.replace("&amp;", "&"))
        assert len(response.context["cl"].result_list) == int(number), address
    assert (
        cells(text, "acks_late")["promise broken"]
        == Tally.objects.filter(broken=True, pattern="acks_late").count()
        == 2
    )
    assert cells(text, "dedup_lock")["effects 2+"] == 1
    assert cells(text, "shop.charge")["task IDs"] == 3
    assert (
        cells(text, "shop.charge")["published"] == Tally.objects.filter(task="shop.charge", publications__gt=0).count()
    )
    assert cells(text, "(no pattern)")["failed"] == 1
    assert (cells(text, "acks_late")["waiting"], cells(text, "acks_late")["lost"]) == (1, 2)


@pytest.mark.parametrize("period", ["hour", "day", "week", "' OR 1=1"])
def test_overview_reads_a_bounded_number_of_rows(admin_client: Client, period: str) -> None:
    append([row for number in range(40) for row in ok(f"t{number}", task=f"shop.task{number % 7}")])
    for number in range(5):
        row(f"w{number}@test", held=[f"t{number}"])
    shown(admin_client)
    with CaptureQueriesContext(connections[alias()]) as queries:
        admin_client.get(f"{PAGE}?period={period}")
    assert len(queries) <= MOST_QUERIES[connections[alias()].vendor]
    assert _scanned([each["sql"] for each in queries]) == []


def _scanned(statements: list[str]) -> list[str]:
    """Statements that read a whole table of the ledger, even if an index would do."""
    found = []
    with connections[alias()].cursor() as cursor:
        if connections[alias()].vendor == "postgresql":
            cursor.execute("SET enable_seqscan = off")  # the tables are small here
        for sql in statements:
            if not sql.startswith("SELECT") or "tasks_demo_" not in sql:
                continue
            sqlite = connections[alias()].vendor == "sqlite"
            cursor.execute(f"EXPLAIN {'QUERY PLAN ' if sqlite else ''}{sql}")
            plan = "\n".join(str(row[-1]) for row in cursor.fetchall())
            if re.search(
                r"SCAN tasks_demo_(tally|event|rollup)\b|Seq Scan on tasks_demo_(tally|event)",
                plan,
            ):
                found.append(f"{sql}\n{plan}")
    return found


def test_overview_answers_a_poll_with_nothing_if_nothing_has_changed(admin_client: Client) -> None:
    append(ok("a"))
    assert rollups.fold(5)
    first = admin_client.get(PAGE, headers={"HX-Request": "true"})
    assert "<html" not in first.content.decode()
    again = {"HX-Request": "true", live.MARK: first[live.MARK]}
    assert admin_client.get(PAGE, headers=again).status_code == 204
    append(ok("b"))
    assert rollups.fold(5)
    changed = admin_client.get(PAGE, headers=again)
    assert changed.status_code == 200
    assert cells(changed.content.decode(), "acks_late")["task IDs"] == 2


def test_overview_names_what_needs_a_person(admin_client: Client) -> None:
    for model in (Parked, OutboxMessage):  # other tests commit some
        model.objects.all().delete()
    (needed,) = re.findall(r'<section class="needs".*?</section>', shown(admin_client), re.DOTALL)
    assert "Nothing. Checked: broken promises, workers, books, parked messages, outbox, settings, " in needed
    append(lost("broken"))
    lying()
    cache.set("tasks_demo.doctor", (1.0, [("Redis", "answers", "fail", "<b>silent</b>", "start it")]))
    text = shown(admin_client)
    assert re.search(r'href="/admin/tasks_demo/tally/\?promise=broken">1 promise broken<', text)
    assert re.search(r'href="/admin/tasks_demo_records/parked/\?state__exact=parked">1 parked message<', text)
    assert re.search(r'href="/admin/tasks_demo/tally/servers/">The doctor failed 1 part of the servers<', text)
    assert "&lt;b&gt;silent" in admin_client.get("/admin/tasks_demo/tally/servers/").content.decode()


def test_overview_names_a_dead_worker_while_its_jobs_have_not_ended(admin_client: Client) -> None:
    append(life("held", "published", "received", "started"), ok("done"))
    dead = row("w7@test", held=["held", "done"])
    address = f"/admin/tasks_demo/tally/workers/{dead.pk}/"
    text = shown(admin_client)
    assert f'href="{address}">The dead worker w7@test held 1 job that has not ended<' in text
    assert admin_client.get(address).status_code == 200
    append([event("returned", 500, task_id="held", operation="held", pattern="acks_late", books="bank")])
    assert "The dead worker" not in shown(admin_client)


def test_overview_says_that_its_counts_are_old_until_somebody_counts(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(ok("a"))
    text = admin_client.get(PAGE).content.decode()
    assert "The numbers below are old: they were never counted." in text
    assert "The ledger has no task ID yet" not in text
    for expected in (1, 2):
        answer = admin_client.post("/admin/tasks_demo/tally/books/", {"next": PAGE}, follow=True)
        text = answer.content.decode()
        assert "All task IDs are counted." in text
        assert "are old" not in text
        assert cells(text, "acks_late")["task IDs"] == expected
        append(ok("b"))
    assert "are old" not in admin_client.get(PAGE).content.decode(), "somebody counts every few seconds"
    monkeypatch.setattr(overview, "OLD_SECONDS", 0.0)
    append(ok("c"))
    assert re.search(r"They lack the \d+ events since\.", admin_client.get(PAGE).content.decode())


def test_overview_of_an_empty_ledger_begins_with_what_the_user_may_do_first(client: Client) -> None:
    def first(text: str) -> str:
        return text.partition('class="first-steps"')[2].partition("</section>")[0]

    viewed = shown(somebody(client, "looks", "view_tally"))
    assert "The ledger has no task ID yet" in first(viewed)
    assert "/learn/" in first(viewed)
    assert "/publish/" not in first(viewed)
    assert "Over time" not in viewed
    assert "/publish/" in first(shown(somebody(client, "publishes", "view_tally", "publish_job")))
    append(ok("a"))
    assert (first(shown(client)), "Over time" in shown(client)) == ("", True)


def test_overview_survives_a_part_that_fails(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    append(lost("broken"))

    def fails(*_: Any) -> list[needs.Need]:
        raise RuntimeError("away")

    monkeypatch.setitem(needs._finders, "leases", (fails, "tasks_demo.view_tally"))
    text = shown(admin_client)
    assert "Leases: cannot be read (RuntimeError)" in text
    assert "1 promise broken" in text


def test_overview_shows_hostile_names_as_text(admin_client: Client) -> None:
    append(ok("a", task="<script>alert(1)</script>", pattern='"><img src=x>'))
    text = shown(admin_client)
    assert "&lt;script&gt;alert(1)" in text
    assert "<img" not in text


def test_series_have_a_point_for_each_span_and_miss_no_task_id() -> None:
    append(ok("a"), killed("b"), life("c", "published", "received", "started", "failed"))
    rollups.fold(1)
    for period, expected in {"hour": 60, "day": 96, "week": 168}.items():
        points = series.points(period)
        minutes = series.PERIODS[period][1] / 60
        assert len(points) == expected
        sums = [round(sum(point.rates[index] for point in points) * minutes) for index in range(len(series.LINES))]
        assert sums == [2, 1, 1, 0], period
    assert [point.waiting for point in series.points("hour")][-1] == 0
