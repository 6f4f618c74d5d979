"""Times in a real browser: in the zone of the reader, in lists, on pages, in charts and in parts that refresh themselves."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tasks_demo.core import clock
from tasks_demo.ledger.models import Tally
from tasks_demo.outbox.enqueue import enqueue
from tests.browser.conftest import Open
from tests.integration.dashboard.worker_rows import row
from tests.integration.ledger.ledger_rows import append, ok
from tests.support import until

pytestmark = [
    pytest.mark.django_db(transaction=True, databases="__all__"),
    pytest.mark.usefixtures("ledger", "redis_url"),
]
#: Twelve hours and three quarters, in summer thirteen: a zone that is read the wrong way round shows.
ZONE = "Pacific/Chatham"
#: The text that the server has written in UTC, as the browser must write it.
EXPECTED = """iso => new Intl.DateTimeFormat('sv-SE', {timeZone: 'Pacific/Chatham', dateStyle: 'short', timeStyle: 'medium'})
    .format(new Date(iso))"""
#: Whether the last time of the table of counts is the last label of the chart.
SAME = f"""() => {{
    const last = [...document.querySelectorAll('#series-table tbody time')].at(-1);
    const label = Chart.getChart(document.querySelector('canvas')).data.labels.at(-1);
    return ({EXPECTED})(last.dateTime).slice(5, 16) === label;
}}"""


@pytest.fixture
def page(open_page: Open, request: pytest.FixtureRequest) -> Page:
    append(ok("fine"))
    row("w1@test")
    enqueue("tasks_demo.charge_outbox", kwargs={"customer": "c", "amount": 7}, queue="nobody")
    return open_page("/admin/tasks_demo/tally/", timezone_id=ZONE, **getattr(request, "param", {}))[0]


@pytest.mark.parametrize(
    "address",
    [
        "tasks_demo/tally/",
        "tasks_demo/tally/fine/change/",
        "tasks_demo/tally/workers/",
        "tasks_demo_records/outboxmessage/",
    ],
)
def test_times_are_in_the_zone_of_the_browser_and_the_page_says_which(page: Page, address: str) -> None:
    page.goto(f"/admin/{address}")
    # All of it in one look: a live part may come between two.
    first = "const first = document.querySelector('#content time');"
    shown = f"first.textContent.includes(({EXPECTED})(first.dateTime)) && first.title.includes('UTC')"
    until(lambda: page.evaluate(f"() => {{ {first} return {shown}; }}"), "the first time, in this zone")
    expect(page.locator("[data-zone]")).to_have_text(f"Times: {ZONE}")


def test_times_in_live_parts_and_charts_have_the_same_zone(page: Page) -> None:
    page.goto("/admin/tasks_demo/")
    page.evaluate("htmx.trigger(document.querySelector('[data-live]'), 'live')")
    until(lambda: page.evaluate(SAME), "a chart and a table of the same times")
    append(ok("later"))
    page.get_by_role("button", name="Read the books and count now").click()
    page.evaluate("document.querySelector('[data-live]').dataset.liveMark = 'old'")
    with page.expect_response(lambda got: "overview" in got.url and got.status == 200):
        page.evaluate("htmx.trigger(document.querySelector('[data-live]'), 'live')")
    expect(page.locator(".of-pattern", has_text="acks_late").locator("td").first).to_have_text("2")  # it has come
    until(lambda: page.evaluate(SAME), "the same afterwards")


@pytest.mark.parametrize("page", [{"java_script_enabled": False}], indirect=True)
def test_times_without_scripts_are_in_the_zone_of_the_server(page: Page) -> None:
    at = clock.aware(Tally.objects.get(task_id="fine").first_at)
    expect(page.locator("#result_list time")).to_have_text(f"{at:%Y-%m-%d %H:%M:%S}")
    expect(page.locator("[data-zone]")).to_have_text("Times: UTC")
