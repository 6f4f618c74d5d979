"""Learn in a real browser: the screen by keyboard, and the file without a script."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.contrib.auth.models import Permission, User
from playwright.sync_api import Browser, expect

from tasks_demo.lab.learn.screen import as_file
from tests.browser.conftest import PASSWORD, Open

pytestmark = [pytest.mark.django_db(transaction=True, databases="__all__"), pytest.mark.usefixtures("ledger")]


def test_guess_is_judged_and_the_history_is_played_by_keyboard(open_page: Open) -> None:
    user = User.objects.create_user("reader", password=PASSWORD, is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_tally"))
    size = {"width": 360, "height": 800}
    page, said = open_page("/admin/tasks_demo/", name="reader", viewport=size, reduced_motion="reduce")
    page.get_by_role("navigation", name="Control room").get_by_role("link", name="Learn").click()

    page.get_by_role("link", name="Kill acks_late at effect_done").press("Enter")
    case = page.locator(".case:visible")
    expect(case).to_have_count(1)
    expect(case).to_be_focused()
    expect(case.locator("svg")).to_be_hidden()
    case.get_by_label("once").press(" ")
    expect(case.locator(".judged")).to_have_text("No: twice.")
    expect(case.locator("svg")).to_be_visible()
    expect(case.locator(".counters")).to_contain_text("charges: 2, executions: 2")
    expect(case.get_by_role("button", name="Play")).to_be_hidden()

    case.get_by_role("button", name="From the start").press("Enter")
    expect(case.locator(".counters")).to_contain_text("charges: 0, executions: 0")
    following = case.get_by_role("button", name="Next step")
    while "killed" not in (case.locator("tr.now").get_attribute("class") or ""):
        following.press("Enter")
    expect(case.locator(".counters")).to_contain_text("charges: 1, executions: 1")
    expect(case.locator(".step")).to_contain_text("SIGKILL")
    expect(page.locator(".picker a[aria-current]")).to_have_attribute("aria-label", "Kill acks_late at effect_done")
    assert case.locator("g.mark.later").count() > 0

    question = page.locator(".quiz .question").first
    question.get_by_label("twice").press(" ")
    expect(page.locator(".score")).to_have_text("1 of 1 right.")
    page.get_by_label("both are bad").check()
    page.get_by_label("rows in our own database").check()
    expect(page.locator(".advice p:visible")).to_contain_text("inbox")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert said == []


def test_learn_file_works_without_a_script(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "learn.html"
    file.write_text(as_file())
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{file.as_uri()}#case-acks_late-effect_done")
    case = page.locator(".case:visible")
    expect(case).to_have_count(1)
    case.get_by_text("What happened", exact=True).click()
    expect(case).to_contain_text("The customer is charged twice.")
    expect(case.locator(".controls")).to_be_hidden()
    context.close()
