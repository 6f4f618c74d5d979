"""Workers in a real browser: from a dead worker to the fate of its jobs in two clicks, live parts, narrow screens."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tasks_demo.leases.process import this_process
from tests.browser.conftest import Open
from tests.integration.dashboard.worker_rows import elsewhere, row
from tests.integration.ledger.ledger_rows import append, killed, life, ok

pytestmark = [
    pytest.mark.django_db(transaction=True, databases="__all__"),
    pytest.mark.usefixtures("ledger", "redis_url"),
]


@pytest.fixture
def said(open_page: Open, request: pytest.FixtureRequest) -> tuple[Page, list[str]]:
    append(ok("finished"), killed("charged-twice"), life("never-run-again", "published", "received", "started"))
    row("w1@test")
    row("w2@test", this_process(""))
    elsewhere("w3@far", 3600)
    return open_page("/admin/tasks_demo/", **getattr(request, "param", {}))


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
    page.wait_for_load_state("load")  # with its style sheets
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.get_by_role("link", name="charged-twice").click()
    expect(page.locator(".kill")).to_be_visible()
    assert complaints == []
