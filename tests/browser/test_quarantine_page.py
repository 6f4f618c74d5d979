"""The quarantine in a real browser: from the list to a message, its requeue with a reason, and the audit record."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tasks_demo.leases.redis_client import connect
from tasks_demo.records.models import Parked
from tests.browser.conftest import Open
from tests.integration.quarantine.parked_rows import QUEUE, lying

pytestmark = [pytest.mark.django_db(transaction=True, databases="__all__"), pytest.mark.usefixtures("ledger")]

HISTORY = [
    {"at": f"2026-11-24T04:0{minute}:05.678901+00:00", "worker": f"w{minute}@host", "pid": 4000 + minute}
    for minute in range(5)
]


@pytest.fixture
def poison(redis_url: str) -> Iterator[Parked]:
    """One message that waits for a decision, between two that were decided."""
    reason = "Begun 5 times and never ended, last by w4@host (pid 4004)."
    lying(state="discarded")
    row = lying(
        note={"order": 17, "customer": "Grüße & <b>co</b>"}, history=HISTORY, reason=reason, operation="order-17"
    )
    lying(state="requeued")
    yield row
    with connect(redis_url, 5.0) as client:
        client.delete(QUEUE)


@pytest.fixture
def page(open_page: Open, poison: Parked, request: pytest.FixtureRequest) -> Page:
    """The list, for a user who may decide."""
    return open_page("/admin/tasks_demo_records/parked/", **getattr(request, "param", {}))[0]


def test_from_the_list_to_a_requeue_with_a_reason(page: Page, poison: Parked, redis_url: str) -> None:
    rows = page.locator("#result_list tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("parked")
    page.get_by_role("link", name=poison.task_id).click()
    expect(page.locator(".facts")).to_contain_text("never ended")
    expect(page.locator("table tbody tr")).to_have_count(5)
    expect(page.locator("pre").first).to_contain_text("Grüße & <b>co</b>")

    page.get_by_role("button", name="Requeue…").click()
    page.get_by_role("button", name="Requeue: 1 message").click()
    # The browser itself requires a reason.
    expect(page.locator("textarea:invalid")).to_have_count(1)
    page.get_by_label("Why?").fill("the disk is back")
    page.get_by_role("button", name="Requeue: 1 message").click()

    expect(page.locator(".messagelist")).to_contain_text("1 message requeued.")
    acts = page.locator("table").first
    expect(acts).to_contain_text("the disk is back")
    expect(acts).to_contain_text("admin")
    expect(page.get_by_role("button", name="Requeue…")).to_have_count(0)
    with connect(redis_url, 5.0) as client:
        assert client.llen(QUEUE) == 1


def test_quarantine_list_discards_several_rows(page: Page) -> None:
    page.get_by_label("Select all objects on this page for an action").check()
    expect(page.locator("#result_list tr.selected")).to_have_count(3)
    page.get_by_label("Action:").select_option(label="Discard the selected messages…")
    page.get_by_role("button", name="Go", exact=True).click()
    expect(page.locator(".notice")).to_contain_text("Not possible for 2: not parked any more")
    page.get_by_label("Why?").fill("duplicates")
    page.get_by_role("button", name="Discard: 1 message").click()
    expect(page.locator(".messagelist")).to_contain_text("1 message discarded.")
    page.goto("/admin/tasks_demo_records/parked/")
    expect(page.locator("#result_list .badge-unresolved")).to_have_count(2)


def test_quarantine_list_requeues_all_matches_by_keyboard(page: Page, redis_url: str) -> None:
    others = [lying(task="shop.other") for _ in range(3)]
    page.goto("/admin/tasks_demo_records/parked/?task=shop.other")
    press_until_focused(page, "Requeue all that match…")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Requeue: messages")).to_be_visible()
    expect(page.locator("#content-main")).to_contain_text("Filter: task = shop.other")
    press_until_focused(page, "Why?")
    page.keyboard.type("the disk is back")
    press_until_focused(page, "Requeue: 3 messages")
    page.keyboard.press("Enter")
    expect(page.locator(".messagelist")).to_contain_text("3 messages requeued.")
    expect(page.locator("#result_list .badge-recovered")).to_have_count(3)
    assert {row.state for row in Parked.objects.filter(pk__in=[row.pk for row in others])} == {"requeued"}
    with connect(redis_url, 5.0) as client:
        assert client.llen(QUEUE) == 3


def press_until_focused(page: Page, name: str) -> None:
    """Press Tab until the control of this name has the focus; fail after 60 times."""
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate("(e => (e.labels?.[0] ?? e).innerText)(document.activeElement)")
        if (focused or "").strip() == name:
            return
    raise AssertionError(f"Tab never reaches {name!r}")


@pytest.mark.parametrize("page", [{"viewport": {"width": 400, "height": 800}}], indirect=True)
def test_narrow_screen_does_not_scroll_sideways(page: Page, poison: Parked) -> None:
    width = "document.documentElement.scrollWidth"
    page.get_by_role("link", name=poison.task_id).click()
    expect(page.get_by_role("button", name="Requeue…")).to_be_visible()
    page.wait_for_load_state("load")  # with its style sheets
    assert page.evaluate(width) <= 400
    page.get_by_role("button", name="Requeue…").click()
    expect(page.get_by_label("Why?")).to_be_visible()
    page.wait_for_load_state("load")  # with its style sheets
    assert page.evaluate(width) <= 400
