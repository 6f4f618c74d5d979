"""The frame of the control room in a real browser: the bar by keyboard, live parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from tasks_demo.ledger import rollups
from tests.browser.logging_in import log_in
from tests.browser.test_admin_page import browser  # noqa: F401  (a fixture)
from tests.integration.ledger.ledger_rows import append, lost, ok

pytestmark = [pytest.mark.django_db(transaction=True, databases="__all__"), pytest.mark.usefixtures("ledger")]


@pytest.fixture
def said(browser: Browser, live_server: LiveServer, settings: Settings) -> Iterator[tuple[Page, list[str]]]:  # noqa: F811
    """A page of a logged-in user, and what the browser complained of: the console, answers of 400 and above, violations."""
    settings.TASKS_DEMO_BANK_URL = ""
    append(ok("fine"), lost("broken"))
    assert rollups.fold(5)
    User.objects.create_superuser("admin", password="of this test")
    context = browser.new_context(base_url=live_server.url, color_scheme="dark", viewport={"width": 360, "height": 800})
    page = context.new_page()
    complaints: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        complaints.append(f"{page.url}: {message.text}")

    def answered(response: Response) -> None:
        if response.status >= 400:
            complaints.append(f"{response.url}: {response.status}")

    page.on("console", heard)
    page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
    page.on("response", answered)
    page.goto("/admin/tasks_demo/")
    log_in(page)
    expect(page).to_have_url(f"{live_server.url}/admin/tasks_demo/")
    yield page, complaints
    context.close()


def test_bar_is_walked_by_keyboard(said: tuple[Page, list[str]]) -> None:
    page, _ = said
    page.get_by_role("navigation", name="Control room").get_by_role("link", name="Overview").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("navigation", name="Control room").locator("[aria-current]")).to_have_text("Task IDs")
    expect(page.locator("#result_list tbody tr")).to_have_count(2)


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
