"""The frame of the control room in a real browser: the bar by keyboard, live parts."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tasks_demo.ledger import rollups
from tests.browser.conftest import Open
from tests.integration.ledger.ledger_rows import append, lost, ok

pytestmark = [pytest.mark.django_db(transaction=True, databases="__all__"), pytest.mark.usefixtures("ledger")]


@pytest.fixture
def said(open_page: Open) -> tuple[Page, list[str]]:
    append(ok("fine"), lost("broken"))
    assert rollups.fold(5)
    return open_page("/admin/tasks_demo/", color_scheme="dark", viewport={"width": 360, "height": 800})


def test_bar_is_walked_by_keyboard(said: tuple[Page, list[str]]) -> None:
    page, _ = said
    page.get_by_role("navigation", name="Control room").get_by_role("link", name="Overview").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("navigation", name="Control room").locator("[aria-current]")).to_have_text("Task IDs")
    expect(page.locator("#result_list tbody tr")).to_have_count(2)


@pytest.mark.parametrize("width", [360, 1099, 1100, 1280])
def test_overview_cuts_no_column_of_its_table(said: tuple[Page, list[str]], width: int) -> None:
    page, _ = said
    page.set_viewport_size({"width": width, "height": 800})
    expect(page.locator(".of-pattern td[data-label='promise broken']").first).to_be_visible()
    assert (
        page.evaluate("document.querySelector('.promises').scrollWidth - document.querySelector('.table').clientWidth")
        <= 0
    )


def test_overview_leads_to_the_timeline_of_a_lost_charge_in_two_clicks(said: tuple[Page, list[str]]) -> None:
    page, complaints = said
    row = page.locator(".of-pattern", has_text="acks_late")
    row.locator("td[data-label='effects 0']").get_by_role("link", name="1").click()
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    page.get_by_role("link", name="broken", exact=True).click()
    expect(page.locator(".facts")).to_contain_text("promise broken")
    expect(page.locator(".line").first).to_contain_text("published")
    expect(page.locator("svg[viewBox]").first).to_be_visible()
    assert complaints == []


def test_overview_refreshes_itself_until_it_is_switched_off(said: tuple[Page, list[str]]) -> None:
    page, complaints = said
    asked: list[str] = []
    answered: list[int] = []
    page.on("request", lambda request: asked.append(request.url) if "tally/overview/" in request.url else None)
    page.on(
        "response", lambda response: answered.append(response.status) if "tally/overview/" in response.url else None
    )
    page.goto("/admin/tasks_demo/?period=day")
    total = page.locator(".of-pattern", has_text="acks_late").locator("td").first
    expect(total).to_have_text("2")
    page.get_by_label("Refresh").select_option("every second")
    page.get_by_text("The same as a table").click()
    append(ok("another"))
    assert rollups.fold(5)
    expect(total).to_have_text("3")
    expect(page.locator("#series-table")).to_be_visible()  # stays open
    expect(page.locator(".switch [aria-current]")).to_have_text("last day")
    assert page.evaluate("[...document.querySelectorAll('canvas')].map(each => each.clientHeight > 100)") == [
        True,
        True,
    ]
    until(lambda: 204 in answered, 30, page)
    page.get_by_label("Refresh").select_option("off")
    page.wait_for_load_state("networkidle")  # what was on its way
    before = len(asked)
    page.wait_for_timeout(2_500)  # two intervals: nothing can be waited for where nothing may come
    assert len(asked) == before
    page.reload()
    expect(page.get_by_label("Refresh")).to_have_value("0")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert complaints == []


def until(true: Callable[[], bool], seconds: float, page: Page) -> None:
    """Wait for it, while the page's events are handled."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)
