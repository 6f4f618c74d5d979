"""The dashboard in a real browser: log in, filter, open a killed task, see where it was killed."""

from __future__ import annotations

import pytest
from django.utils.timezone import now
from playwright.sync_api import Page, expect

from tasks_demo.records.models import OutboxMessage
from tests.browser.conftest import Open
from tests.integration.ledger.ledger_rows import append, killed, life, lost, ok
from tests.integration.quarantine.parked_rows import lying

pytestmark = [pytest.mark.django_db(transaction=True, databases="__all__"), pytest.mark.usefixtures("ledger")]


@pytest.fixture
def page(open_page: Open, request: pytest.FixtureRequest) -> Page:
    """The list of task IDs, with three tasks in the ledger."""
    append(ok("fine"), killed("killed-once", run="r1:acks_late/kill-main"), lost("broken-promise"))
    return open_page("/admin/tasks_demo/tally/", **getattr(request, "param", {}))[0]


def test_list_leads_to_the_point_of_the_kill(page: Page) -> None:
    rows = page.locator("#result_list tbody tr")
    expect(rows).to_have_count(3)
    page.get_by_role("link", name="Problems first").click()
    expect(rows.first).to_contain_text("broken-promise")
    expect(rows.first).to_contain_text("promise broken")

    page.locator("#changelist-filter").get_by_role("link", name="duplicated").click()
    expect(rows).to_have_count(1)
    page.get_by_role("link", name="killed-once").click()

    expect(page.locator(".kill")).to_have_text("✗ Killed here")
    phase = page.locator(".phase-fault")
    expect(phase).to_have_count(1)
    expect(phase).to_contain_text("Delivery 1")
    expect(phase.locator(".line").last).to_contain_text("SIGKILL")
    expect(page.locator(".phase").nth(2)).to_contain_text("delivered again")
    expect(page.locator(".facts")).to_contain_text("and still acks_late kept its promise: at-least-once allows that")


def test_search_by_the_beginning_of_a_task_id(page: Page) -> None:
    page.locator("#searchbar").fill("killed-")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    expect(page.locator("#result_list")).to_contain_text("killed-once")


@pytest.mark.parametrize("page", [{"java_script_enabled": False}], indirect=True)
def test_timeline_needs_no_javascript(page: Page) -> None:
    page.get_by_role("link", name="killed-once").click()
    expect(page.locator(".kill")).to_be_visible()
    expect(page.locator(".line")).to_have_count(15)


@pytest.mark.parametrize("page", [{"viewport": {"width": 400, "height": 800}}], indirect=True)
def test_narrow_screen_does_not_scroll_sideways(page: Page) -> None:
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) <= 400
    page.locator("#result_list .field-executions_n").first.scroll_into_view_if_needed()
    expect(page.locator("#result_list .field-executions_n").first).to_be_in_viewport()
    page.get_by_role("link", name="killed-once").click()
    expect(page.locator(".kill")).to_be_visible()
    page.wait_for_load_state("load")  # with its style sheets
    assert page.evaluate(width) <= 400


@pytest.mark.parametrize(
    "page", [{"viewport": {"width": width, "height": 900}} for width in (1400, 1340, 900, 360)], indirect=True, ids=str
)
def test_list_cuts_no_column(page: Page) -> None:
    append(lost("W" * 200, task="shop.payments.tasks.charge_the_customer_of_an_order", pattern="dedup_lock"))
    OutboxMessage.objects.create(
        task_id="w" * 100,
        task="shop.payments.tasks.charge",
        arguments=f'[[], {{"x": "{"w" * 300}"}}]',
        created_at=now(),
        due_at=now(),
    )
    lying(task="shop.payments.tasks.charge", operation="order-17-of-a-customer")
    cut = "() => [...document.querySelectorAll('.results')].map(found => found.scrollWidth - found.clientWidth)"
    for address in (
        "tasks_demo/tally/?first=problems",
        "tasks_demo_records/outboxmessage/",
        "tasks_demo_records/parked/",
    ):
        page.goto(f"/admin/{address}")
        expect(page.locator("#result_list tbody tr").first).to_be_visible()
        assert page.evaluate(cut) == [0], address
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, address
    page.goto("/admin/tasks_demo_records/outboxmessage/")
    page.locator("#result_list th a").first.click()
    expect(page.locator(".field-arguments_shown")).to_be_visible()
    page.wait_for_load_state("load")  # with its style sheets
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_task_to_which_nothing_was_promised_has_no_count_in_red(page: Page) -> None:
    twice = ("published", "received", "started", "returned", "received", "started", "returned", "failed")
    append(life("plain", *twice, pattern="", books=""), life("promised", *twice, pattern="acks_early", books=""))
    for task_id, loud in (("plain", 0), ("promised", 2)):
        page.goto(f"/admin/tasks_demo/tally/{task_id}/change/")
        expect(page.locator(".counts li")).to_have_count(6)
        expect(page.locator(".counts .loud")).to_have_count(loud)
    page.goto("/admin/tasks_demo/tally/?q=plain")
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    expect(page.locator("#result_list .loud")).to_have_count(0)
