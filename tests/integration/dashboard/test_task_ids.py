"""The list of task IDs at /admin/tasks_demo/.

Over 300 lines: columns, filters, search and order of one list, on the same rows.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tasks_demo.core import clock
from tasks_demo.dashboard import keyset, search
from tasks_demo.dashboard.filters import RunFilter
from tasks_demo.ledger.events import EventData
from tasks_demo.ledger.models import Tally
from tests.integration.dashboard.pages import text
from tests.integration.ledger.ledger_rows import START, append, event, killed, life, lost, ok

pytestmark = [pytest.mark.django_db(transaction=True, databases=["default"]), pytest.mark.usefixtures("ledger")]

LIST = "/admin/tasks_demo/tally/"


def shown(client: Client, query: str = "") -> list[str]:
    """The task IDs on the page, in order."""
    response = client.get(LIST + query)
    assert response.status_code == 200, response.status_code
    return [tally.task_id for tally in response.context["cl"].result_list]


def walked(client: Client, query: str, *, back: bool = False) -> Iterator[list[str]]:
    """The task IDs of each page, by the links to the next page; or by those back from the last page, in the same order."""
    pages, link = [], query
    while link:
        cl = client.get(LIST + link).context["cl"]
        pages.append([tally.task_id for tally in cl.result_list])
        last, link = link, cl.next_link
    if back:
        pages = pages[-1:]
        link = client.get(LIST + last).context["cl"].previous_link
        while link:
            cl = client.get(LIST + link).context["cl"]
            pages.insert(0, [tally.task_id for tally in cl.result_list])
            link = cl.previous_link
    yield from pages


def test_task_ids_page_of_an_empty_ledger_says_what_to_do(staff: Client) -> None:
    assert "manage.py enqueue" in text(staff.get(LIST))


def test_task_ids_page_shows_counts_last_worker_and_run(staff: Client) -> None:
    append(killed("charged-twice", run="r1:acks_late/kill-main"))
    page = text(staff.get(LIST))
    assert re.search(
        r"charged-twice acks_late ✓ succeeded ⇉ duplicated 2 2 2 0 w2@test r1:acks_late/kill-main", page
    ), page


def test_broken_promise_is_said_in_words_with_a_mark(staff: Client) -> None:
    append(killed("late"), killed("locked", pattern="dedup_lock"))
    rows = re.findall(r"<tr>.*?</tr>", staff.get(LIST).content.decode(), re.S)
    by_id = {name: row for name in ("late", "locked") for row in rows if f">{name}<" in row}
    assert "✗</span> promise broken" in by_id["locked"]
    assert "broken" not in by_id["late"]


def test_task_ids_page_allows_no_change(admin_client: Client) -> None:
    append(ok("a"))
    for path in ("add/", "a/delete/"):
        assert admin_client.get(LIST + "" + path).status_code == 403
        assert admin_client.post(LIST + "" + path, {"post": "yes"}).status_code == 403
    assert admin_client.post(LIST + "a/change/", {"effects": "9"}).status_code == 403
    admin_client.post(LIST + "", {"action": "delete_selected", "_selected_action": "a", "post": "yes"})
    assert Tally.objects.get().effects == 1
    assert "delete_selected" not in admin_client.get(LIST).content.decode()


def _zoo() -> None:
    append(
        ok("fine"),
        lost("gone", pattern="acks_early"),
        killed("twice", run="r1:acks_late/kill-main"),
        lost("broken-gone"),
        life("open", "published", "received", "started", pattern="dedup_lock"),
        [event("published", 90_000, task_id="newest", operation="order 9", pattern="acks_late", books="bank")],
    )


def test_filters(staff: Client) -> None:
    _zoo()
    expected: dict[str, set[str]] = {
        "?verdict=ok": {"fine"},
        "?verdict=lost": {"gone", "broken-gone"},
        "?verdict=duplicated": {"twice"},
        "?verdict=unresolved": {"open", "newest"},
        "?promise=broken": {"broken-gone"},
        "?promise=kept": {"fine", "gone", "twice", "open", "newest"},
        "?pattern=acks_early": {"gone"},
        "?pattern=acks_late&verdict=lost": {"broken-gone"},
        "?pattern=-": set(),
        "?run=r1:acks_late/kill-main": {"twice"},
        "?run=unknown": set(),
        "?verdict=nonsense": set(),
        "?verdict=%00&run=%00&pattern=%00&promise=%00": set(),
        "?broken=1": {"broken-gone"},
        "?broken=0&verdict=lost": {"gone"},
        "?executions=0": {"newest"},
        "?executions=1": {"fine", "gone", "broken-gone", "open"},
        "?executions=2%2B": {"twice"},
        "?executions=2+": {"twice"},
        "?executions=2": set(),
        "?effects=0": {"gone", "broken-gone", "open", "newest"},
        "?effects=0&pattern=acks_late&outcome=waiting": {"newest"},
        "?effects=2%2B": {"twice"},
        "?suppressed=1": set(),
        "?deferred=1": set(),
        "?deferred=0": set(),
        "?worker=w2@test": {"twice"},
        "?worker=w1@test&verdict=lost": {"gone", "broken-gone"},
        "?worker=w": set(),
        "?since=1h": {"fine", "gone", "twice", "broken-gone", "open", "newest"},
        "?until=1h": set(),
        f"?since={quote(clock.iso(START + 60))}": {"newest"},
        f"?until={clock.iso(START + 60)}": {"fine", "gone", "twice", "broken-gone", "open"},
        "?since=yesterday": set(),
        "?since=2026-13-45&until=%00": set(),
        "?worker=%00&executions=%00&suppressed=%00": set(),
    }
    assert {query: set(shown(staff, query)) for query in expected} == expected


def test_latest_come_first_unless_problems_are_asked_for(staff: Client) -> None:
    _zoo()
    assert shown(staff)[0] == "newest"
    first = shown(staff, "?first=problems")
    assert first[:3] == ["broken-gone", "twice", "gone"]
    assert set(first[3:5]) == {"open", "newest"}
    assert first[5:] == ["fine"]


@pytest.mark.parametrize("also", ["", "&q=w1", "&worker=w1@test"])
def test_problems_first_pages_through_all_without_gap_or_repetition(staff: Client, also: str) -> None:
    append(*(killed(f"t{n:03}") for n in range(30)), *(ok(f"o{n:03}") for n in range(75)))
    pages = list(walked(staff, "?first=problems" + also))
    seen = [task_id for page in pages for task_id in page]
    assert [len(page) for page in pages] == [50, 50, 5]
    assert len(set(seen)) == 105
    assert {task_id[0] for task_id in seen[:30]} == {"t"}
    assert list(walked(staff, "?first=problems" + also, back=True)) == pages


def test_switch_keeps_the_filters(staff: Client) -> None:
    _zoo()
    page = staff.get(LIST + "?verdict=lost").content.decode()
    assert "?first=problems&amp;verdict=lost" in page


def test_search_finds_the_whole_or_the_beginning(staff: Client) -> None:
    _zoo()
    expected: dict[str, set[str]] = {
        "twice": {"twice"},
        "tw": {"twice"},
        " tw ": {"twice"},
        "wice": set(),
        "order 9": {"newest"},
        "w2@": {"twice"},
        "w2@test": {"twice"},
        "ord": {"newest"},
        "%": set(),
        "_wice": set(),
        "t*": set(),
        "'; DROP TABLE tasks_demo_tally; --": set(),
        "x" * 10_000: set(),
        "\U0010ffff": set(),
    }
    assert {term: set(shown(staff, f"?q={quote(term)}")) for term in expected} == expected


HOSTILE = [
    "q=%00",
    "q=%ED%A0%80",
    "q=%ff%fe",
    "p=0",
    "p=-1",
    "p=x",
    "p=" + "9" * 5000,
    "o=99.-3.x",
    "all=",
    "e=1",
    "run=%ED%A0%80",
    "task_id__icontains=a",
    "no_such_field=1",
    "task_id__regex=(",
    "verdict=" + "x" * 10_000,
    "_facets",
    "first=x",
    "_popup=1",
    "after=0:1:x",
    "after=" + "9" * 5000 + ":1:x",
    "after=0:" + "9" * 30 + ":x",
    "after=0:-1:x",
    "before=0:1:%00",
    "before=0:1:%ED%A0%80",
    "before=77:1:x&first=problems",
    "after=%D9%A1:1:x",
    "since=" + "9" * 5000,
    "since=9999-12-31T23:59:59-23:59&until=0001-01-01",
    "since=999999d",
    "since=%ED%A0%80&until=%E2%80%AE",
    "worker=%ED%A0%80",
    "broken=",
    "broken=%00",
]


def test_task_ids_page_answers_hostile_parameters(staff: Client) -> None:
    _zoo()
    answers = {query: staff.get(LIST, QUERY_STRING=query, follow=True).status_code for query in HOSTILE}
    assert answers == dict.fromkeys(HOSTILE, 200)


def test_search_for_a_lone_surrogate_finds_nothing() -> None:
    append(ok("a"))
    found, truncated = search.matching(Tally.objects.all(), "\ud800")
    assert not found.exists()
    assert not truncated


def test_search_says_that_its_result_is_truncated(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MOST_FOUND", 2)
    append(ok("a1"), ok("a2"), ok("a3"))
    assert len(shown(staff, "?q=a")) == 2
    assert "More task IDs match" in text(staff.get(LIST + "?q=a"))


def _published(task: str, number: int, after: int, worker: str = "") -> list[EventData]:
    kind = "started" if worker else "published"
    return [event(kind, after + n, task_id=f"id-{task}{worker}{n}", task=task, worker=worker) for n in range(number)]


@pytest.mark.parametrize(
    ("term", "latest"),
    [("x.", {"id-x.b2", "id-x.b3", "id-x.b4"}), ("w@", {"id-yw@28", "id-yw@27", "id-yw@26"})],
)
def test_search_of_several_names_finds_the_latest_of_all(
    staff: Client, monkeypatch: pytest.MonkeyPatch, term: str, latest: set[str]
) -> None:
    monkeypatch.setattr(search, "MOST_FOUND", 3)
    append(_published("x.a", 5, 0), _published("x.b", 5, 1000), _published("x.c", 2, 500))
    append(_published("y", 2, 700, "w@1"), _published("y", 9, 800, "w@2"), _published("y", 5, 0, "w@3"))
    assert set(shown(staff, f"?q={term}")) == latest
    assert "More task IDs match" in text(staff.get(LIST + f"?q={term}"))


@pytest.mark.parametrize("query", ["q=t", "q=x.", "q=w1", "worker=w1@test", "q=x.&effects=1", "q=x.&worker=w1@test"])
@pytest.mark.parametrize("order", ["", "&first=problems"])
def test_search_reads_what_it_finds_once(staff: Client, query: str, order: str) -> None:
    append(*(ok(f"t{n:02}", task="x.y") for n in range(60)))
    with CaptureQueriesContext(connection) as captured:
        assert len(shown(staff, f"?{query}{order}")) == 50
    # Once those that were found, with the filters, and once the rows of the page.
    tallies = [entry["sql"] for entry in captured if 'tasks_demo_tally"."task_id" IN' in entry["sql"]]
    assert len(tallies) == 2


def test_counting_stops_and_says_so(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    append(*(ok(f"t{n:02}") for n in range(60)))
    assert " 60 task IDs " in text(staff.get(LIST))
    monkeypatch.setattr(keyset, "MOST_COUNTED", 55)
    assert "more than 55 task IDs" in text(staff.get(LIST))


@pytest.mark.parametrize("query", ["?", "?q=t", "?worker=w1@test"])
def test_task_ids_page_turns_in_both_directions_without_gap_or_repetition(staff: Client, query: str) -> None:
    append(*(ok(f"t{n:03}") for n in range(110)))  # of one moment, so that only the task ID orders them
    pages = list(walked(staff, query))
    assert [task_id for page in pages for task_id in page] == [f"t{n:03}" for n in range(110)]
    assert list(walked(staff, query, back=True)) == pages
    first = staff.get(LIST + query).context["cl"]
    assert (first.result_count, first.more) == (110, False)


@pytest.mark.parametrize("back", [False, True])
def test_task_ids_page_says_where_it_stopped_searching_and_goes_on(
    staff: Client, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    monkeypatch.setattr(keyset, "WINDOW", 20)
    later = [event("published", n * 1000, task_id=f"t{n:02}", pattern="acks_late", task="x") for n in range(100)]
    append(later, *(killed(f"k{n}") for n in range(2)))
    found = [task_id for page in walked(staff, "?pattern=acks_late&effects=2%2B", back=back) for task_id in page]
    assert found == ["k0", "k1"]
    query = "?pattern=acks_late&executions=0&effects=1"
    assert "looked only at task IDs back to" in text(staff.get(LIST + query))
    pages = list(walked(staff, query))
    assert len(pages) > 3
    assert not any(pages)


def test_strip_counts_verdicts_by_pattern(staff: Client) -> None:
    _zoo()
    summary = staff.get(LIST).context["latest"]
    counted = {item.pattern: {share.verdict: share.count for share in item.shares} for item in summary.patterns}
    assert counted["acks_late"] == {"ok": 1, "duplicated": 1, "lost": 1, "unresolved": 1}
    assert counted["acks_early"] == {"lost": 1}
    assert (summary.total, summary.broken) == (6, 1)
    assert "1 promise broken" in text(staff.get(LIST))


def test_task_ids_page_offers_only_the_latest_runs(staff: Client) -> None:
    append(*(ok(f"t{n}", run=f"run{n:02}:acks_late/none") for n in range(30)))
    specs = staff.get(LIST + "?run=run00:acks_late/none").context["cl"].filter_specs
    offered = next(spec for spec in specs if isinstance(spec, RunFilter)).lookup_choices
    assert len(offered) <= 16
    assert "run00:acks_late/none" in dict(offered)


ODD = ["a/b", "<script>alert(1)</script>", "quote'\"quote", "späß ✗ 中", "a b?c=d#e&f", "_2F", "%2F", "x\ny"]


def test_task_ids_page_shows_and_opens_any_task_id(staff: Client) -> None:
    append(*(ok(task_id) for task_id in ODD))
    page = staff.get(LIST).content.decode()
    assert "<script>alert" not in page
    links = re.findall(r'<th class="field-identity"><a href="([^"]+)"', page)
    opened = [staff.get(html.unescape(link)) for link in links]
    assert [answer.status_code for answer in opened] == [200] * len(ODD)
    assert {answer.context["task_page"].tally.task_id for answer in opened} == set(ODD)
    assert not any("<script>alert" in answer.content.decode() for answer in opened)


EVERY_KIND = (
    "", "first=problems", "verdict=lost", "verdict=ok", "promise=broken", "promise=kept", "pattern=acks_late", "q=t1", "run=x",
    "executions=0", "executions=2%2B", "effects=1", "suppressed=1", "deferred=1&pattern=acks_late", "worker=w1@test", "q=w1",
    "q=t&first=problems", "task=x&outcome=failed&since=7d&until=1m", "outcome=succeeded&effects=2%2B",
    "first=problems&pattern=inbox", "after=0:1795420989967231:x&executions=0", "before=0:1795420989967231:x&task=x",
)  # fmt: skip


@pytest.mark.parametrize("query", EVERY_KIND)
def test_task_ids_page_sorts_or_scans_no_whole_table(staff: Client, query: str) -> None:
    append(*(ok(f"t{n}") for n in range(60)))
    with CaptureQueriesContext(connection) as captured:
        shown(staff, f"?{query}")
    statements = [entry["sql"] for entry in captured.captured_queries if "tasks_demo_" in entry["sql"]]
    assert 0 < len(statements) <= 30
    plans: list[str] = []
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET enable_seqscan = off")  # a small table is read as a whole if it may be
        for statement in statements:
            cursor.execute(f"EXPLAIN {'QUERY PLAN' if connection.vendor == 'sqlite' else ''} {statement}")
            plans += [f"{row[-1]} <- {statement}" for row in cursor.fetchall()]
        if connection.vendor == "postgresql":
            cursor.execute("RESET enable_seqscan")
            assert not [plan for plan in plans if re.match(r"[ >-]*Seq Scan on tasks_demo_(tally|event)", plan)]
            return
    scans = [plan for plan in plans if plan.startswith("SCAN tasks_demo_") and "USING" not in plan.split(" <- ")[0]]
    sorts = [plan for plan in plans if plan.startswith("USE TEMP B-TREE FOR ORDER BY") and 'task_id" IN' not in plan]
    assert not [scan for scan in scans if "tasks_demo_book" not in scan], scans
    assert not sorts, sorts


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("", "tally_latest"),
        ("?verdict=lost", "tally_verdict"),
        ("?promise=broken", "tally_broken"),
        ("?pattern=acks_late", "tally_pattern"),
        ("?pattern=acks_late&verdict=lost", "tally_pattern_verdict"),
        ("?pattern=acks_late&verdict=ok", "tally_pattern"),
        ("?verdict=unresolved", "tally_open"),
        ("?outcome=running", "tally_open"),
        ("?outcome=failed", "tally_outcome"),
        ("?run=r1:x", "tally_run"),
        ("?run=r1:x&verdict=ok", "tally_run"),
        ("?executions=2%2B", "tally_again"),
        ("?effects=2%2B&pattern=acks_late", "tally_again"),
        ("?suppressed=1", "tally_again"),
        ("?deferred=1&since=7d", "tally_again"),
        ("?outcome=failed&task=x", "tally_outcome"),
        ("?executions=1&outcome=succeeded&since=1h", "tally_latest"),
    ],
)
def test_task_ids_page_finds_rare_values_by_an_index(staff: Client, query: str, index: str) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("reads SQLite's query plans; PostgreSQL plans by statistics, which a small table does not have")
    append(*(ok(f"t{n}") for n in range(60)))
    (segment,) = staff.get(LIST + query).context["cl"].segments()
    walked_through = segment.tallies if segment.leading is None else segment.leading
    plan = walked_through.order_by("-first_at", "task_id").explain().splitlines()[0]
    assert f"USING INDEX {index}" in plan
