"""Workers in a real browser: from a dead worker to the fate of its jobs in two clicks, live parts, narrow screens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, Page, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from tasks_demo.leases.process import this_process
from tests.browser.logging_in import log_in
from tests.browser.test_admin_page import browser
from tests.integration.dashboard.worker_rows import elsewhere, row
from tests.integration.ledger.ledger_rows import append, killed, life, ok

__all__ = ["browser"]
pytestmark = [
    pytest.mark.django_db(transaction=True, databases="__all__"),
    pytest.mark.usefixtures("ledger", "redis_url"),
]


@pytest.fixture
def said(
    browser: Browser, live_server: LiveServer, settings: Settings, request: pytest.FixtureRequest
) -> Iterator[tuple[Page, list[str]]]:
    """The overview for a user who may see everything, and what the browser complained of."""
    settings.TASKS_DEMO_BANK_URL = ""
    append(ok("finished"), killed("charged-twice"), life("never-run-again", "published", "received", "started"))
    row("w1@test")
    row("w2@test", this_process(""))
    elsewhere("w3@far", 3600)
    User.objects.create_superuser("admin", password="of this test")
    context = browser.new_context(base_url=live_server.url, **getattr(request, "param", {}))
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto("/admin/tasks_demo/")
    log_in(page)
    expect(page).to_have_url(f"{live_server.url}/admin/tasks_demo/")
    page.wait_for_load_state("load")
    yield page, complaints
    context.close()


@pytest.mark.parametrize(
    "said",
    [{"color_scheme": "light"}, {"color_scheme": "dark", "viewport": {"width": 360, "height": 800}}],
    indirect=True,
    ids=["light", "dark and narrow"],
)
def test_dead_worker_to_the_fate_of_its_jobs_in_two_clicks(said: tuple[Page, list[str]]) -> None:
    page, complaints = said
    page.get_by_role("navigation", name="Control room").get_by_role("link", name="Workers").click()
    expect(page.get_by_role("region", name="Queues", exact=True)).to_contain_text("w2@test")  # the live part has come
    dead = page.get_by_role("region", name="Worker processes", exact=True).last.locator("tr", has_text="w1@test")
    expect(dead).to_contain_text("dead")
    page.wait_for_load_state("load")  # with its style sheets
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    dead.get_by_role("link").click()
    jobs = page.get_by_role("region", name="Jobs", exact=True)
    expect(jobs.locator("tbody tr")).to_have_count(2)
    expect(jobs.locator("tr", has_text="charged-twice")).to_contain_text("twice, by the books “bank”")
    expect(jobs.locator("tr", has_text="never-run-again")).to_contain_text("nobody has it yet")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.get_by_role("link", name="charged-twice").click()
    expect(page.locator(".kill")).to_be_visible()
    assert complaints == []
