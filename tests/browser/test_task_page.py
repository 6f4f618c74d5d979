"""The page of one task ID in a real browser, with a pool process that was really killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect
from pytest_django import Settings

from tasks_demo.demo.tasks import CHARGES
from tasks_demo.ledger.models import Event
from tests.browser.conftest import Open
from tests.support import STATE, Home, Worker, databases_of_tests, until

pytestmark = [pytest.mark.django_db(transaction=True, databases="__all__"), pytest.mark.usefixtures("ledger")]


@pytest.fixture
def killed_job(home: Home, redis_url: str, bank_url: str, settings: Settings) -> Iterator[str]:
    """The task ID of a job of acks_late whose process was killed in its body, and that ran again."""
    settings.TASKS_DEMO_BANK_URL = bank_url
    env = {**databases_of_tests(), "REDIS_URL": redis_url, "BANK_URL": bank_url}
    with Worker(home, STATE / "task-page-worker.log", env, concurrency=1):
        sent = CHARGES["acks_late"].apply_async(kwargs={"customer": "c", "amount": 1, "work_ms": 4000})
        mine = Event.objects.filter(task_id=sent.id)
        os.kill(until(lambda: mine.filter(kind="started").values_list("pid", flat=True).first()), signal.SIGKILL)
        until(lambda: mine.filter(kind="acked").exists(), "the second delivery's end", 60)
        yield sent.id


def test_drawing_shows_both_executions_and_the_one_without_an_end(killed_job: str, open_page: Open) -> None:
    page, said = open_page(f"/admin/tasks_demo/tally/{killed_job}/change/", viewport={"width": 360, "height": 800})
    drawing = page.get_by_role("img", name="The life of this job")
    expect(drawing).to_be_visible()
    expect(drawing.locator(".bar-execution")).to_have_count(2)
    expect(drawing.locator(".bar-execution.bar-open")).to_have_count(1)
    expect(drawing.locator("g.mark > text", has_text="received again")).to_have_count(1)
    expect(page.locator(".moments .line")).to_have_count(Event.objects.filter(task_id=killed_job).count())
    box = page.locator(".swimlanes")
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    box.focus()
    page.keyboard.press("ArrowRight")
    until(lambda: box.evaluate("box => box.scrollLeft > 0"), "scrolling by keyboard")
    assert said == []
