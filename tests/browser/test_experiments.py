"""An experiment in a real browser: choose, read the plan, start, watch, read the verdict, download each report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from pytest_django import Settings

from tasks_demo.lab.processes.run_folder import is_alive
from tests.browser.conftest import Open
from tests.lab.screens.run_folders import ROOT, use
from tests.support import until

pytestmark = [
    pytest.mark.django_db(transaction=True, databases="__all__"),
    pytest.mark.usefixtures("ledger"),
    pytest.mark.timeout(180),
]


@pytest.fixture
def page(open_page: Open, settings: Settings, monkeypatch: pytest.MonkeyPatch, short: Path) -> Iterator[Page]:
    """The list of experiments, in a narrow window, for a user who may start one. Fails if the browser complained."""
    use(settings, monkeypatch, short)
    page, complaints = open_page(ROOT, viewport={"width": 360, "height": 800})
    yield page
    assert complaints == []


def test_from_the_choice_to_the_reports(page: Page, short: Path) -> None:
    page.get_by_role("link", name="New experiment").click()
    for box in ("acks_early", "dedup_lock"):
        page.get_by_label(box, exact=True).uncheck()
    page.get_by_label("kill-main: ").uncheck()
    page.get_by_label("Jobs of each cell").fill("10")
    page.get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Show the plan").click()
    expect(page.locator(".plan .counts")).to_contain_text("2 cells")
    expect(page.locator(".plan .command")).to_contain_text("--pattern acks_late --fault none kill-child")
    _fits(page)

    page.get_by_role("button", name="Start: 1 fault in 2 cells").click()
    expect(page.locator(".badge").first).to_contain_text("running")
    # It is not reloaded: the live part draws the workers, and then the end.
    expect(page.locator("td", has_text="running").first).to_be_attached()
    expect(page.locator(".signs")).to_contain_text("as predicted", timeout=90_000)
    expect(page.locator("[data-live-done]")).to_have_count(1)
    expect(page.locator(".matrix tbody tr")).to_have_count(2)
    expect(page.locator("svg.chart .kills")).to_have_count(1)
    _fits(page)
    (folder,) = (short / "runs").glob("2*")
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    for link, suffix, holds in (
        ("JSON", "json", '"schema": "experiment/1"'),
        ("JUnit", "xml", "<testsuite "),
        ("Markdown", "md", "| pattern | fault |"),
        ("HTML", "html", "<h1>Experiment: as predicted</h1>"),
        ("history (JSON Lines)", "jsonl", '"kind":'),
    ):
        with page.expect_download() as download:
            page.get_by_role("link", name=link, exact=True).click()
        assert download.value.suggested_filename == f"{folder.name}.{suffix}"
        text = Path(download.value.path()).read_text(encoding="utf-8")
        assert holds in text
        if suffix == "json":
            assert json.loads(text) == result
    until(lambda: not is_alive(folder), "the end of its process")


def _fits(page: Page) -> None:
    page.wait_for_load_state("load")  # with its style sheets
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
