"""Takes the pictures of docs/images from a real run, if SCREENSHOTS names the folder: ``make screenshots``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client
from playwright.sync_api import Browser, Page, expect
from pytest_django import Settings

from tasks_demo.dashboard.held_jobs import held_jobs
from tasks_demo.dashboard.processes import DEAD, workers
from tasks_demo.lab.processes.run_folder import is_alive
from tasks_demo.ledger import rollups
from tasks_demo.ledger.models import Tally
from tests.browser.conftest import Open
from tests.lab.screens.run_folders import ROOT, use
from tests.support import until

pytestmark = [
    pytest.mark.django_db(transaction=True, databases="__all__"),
    pytest.mark.usefixtures("ledger", "redis_url"),
    pytest.mark.timeout(600),
    pytest.mark.skipif(not os.environ.get("SCREENSHOTS"), reason="make screenshots"),
]
#: Maximum size of a picture, bytes.
MOST_BYTES = 250_000
CHOICES = {
    "pattern": ["acks_early", "acks_late", "dedup_lock"],
    "fault": ["none", "kill-main"],
    "tasks": "40",
    "seed": "7",
}
TALLY = "/admin/tasks_demo/tally/"


@pytest.fixture
def run(browser: Browser, settings: Settings, monkeypatch: pytest.MonkeyPatch, short: Path, bank_url: str) -> str:
    """The name of an experiment that has ended."""
    use(settings, monkeypatch, short)
    monkeypatch.setenv("BANK_URL", bank_url)
    client = Client()
    client.force_login(User.objects.create_superuser("starts-it"))
    name = client.post(f"{ROOT}start/", CHOICES).headers["Location"].removeprefix(ROOT).rstrip("/")
    until(lambda: not is_alive(short / "runs" / name), "the end of the experiment", 400)
    assert rollups.fold(30)
    return name


@pytest.fixture(params=["light", "dark"])
def page(run: str, open_page: Open, request: pytest.FixtureRequest) -> Page:
    size = {"width": 1280, "height": 900}
    return open_page("/admin/tasks_demo/", color_scheme=request.param, reduced_motion="reduce", viewport=size)[0]


def test_pictures_are_taken_of_a_real_run(page: Page, run: str, request: pytest.FixtureRequest) -> None:
    folder, scheme = Path(os.environ["SCREENSHOTS"]), request.node.callspec.params["page"]
    twice = Tally.objects.filter(pattern="acks_late", effects=2).order_by("first_at").first()
    assert twice
    dead = max((each for each in workers()[0] if each.state == DEAD), key=lambda each: len(held_jobs(each).fates))
    for name, address in (
        ("overview", "/admin/tasks_demo/"),
        ("timeline", f"{TALLY}{twice.task_id}/change/"),
        ("worker", f"{TALLY}workers/{dead.row.pk}/"),
        ("experiment", f"{ROOT}{run}/"),
        ("learn", f"{TALLY}learn/"),
    ):
        page.goto(address)
        page.wait_for_load_state("load")
        if name == "learn":
            page.get_by_role("link", name="Kill acks_late at effect_done").click()
            page.locator(".case:visible").get_by_label("once").check()
            expect(page.locator(".case:visible svg")).to_be_visible()
            page.locator(".case:visible").evaluate("each => each.scrollIntoView()")
        file = folder / f"{name}-{scheme}.png"
        page.screenshot(path=str(file), animations="disabled")
        assert file.stat().st_size <= MOST_BYTES, file.name
        if (name, scheme) == ("timeline", "light"):
            _in_one(page, folder / "killed-and-charged-twice.png")


def _in_one(page: Page, file: Path) -> None:
    """The facts and the drawing of a task ID as one picture, which the README shows."""
    top, end = page.locator(".facts").bounding_box(), page.locator(".swimlanes-key").bounding_box()
    assert top
    assert end
    clip = {"x": top["x"] - 16, "y": top["y"] - 8, "width": 1152, "height": end["y"] + end["height"] - top["y"] + 24}
    page.screenshot(path=str(file), full_page=True, clip=clip, animations="disabled")  # type: ignore[arg-type]
    assert file.stat().st_size <= MOST_BYTES, file.name
