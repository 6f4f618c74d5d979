"""Every screen in a real browser: axe-core, console, policy, width, and the keyboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page
from pytest_django import Settings

from tests.browser.conftest import Open
from tests.browser.every_screen import filled

pytestmark = [
    pytest.mark.django_db(transaction=True, databases="__all__"),
    pytest.mark.usefixtures("ledger", "redis_url"),
    pytest.mark.timeout(600),
]
AXE = Path(__file__).parent / "vendor/axe.min.js"
#: What axe-core calls serious or critical, by the rules of WCAG 2.2 AA and by good practice. Without preload, for which it would
#: load the style sheets again in a way that the policy forbids.
RUN_AXE = """async () => {
    const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
    const found = await axe.run({preload: false, resultTypes: ['violations'], runOnly: tags});
    const serious = found.violations.filter(each => ['serious', 'critical'].includes(each.impact));
    return serious.map(each => [each.id, each.nodes.slice(0, 5).map(node => `${node.target.join(' ')}: ${node.failureSummary}`)]);
}"""
#: What a keyboard cannot reach in the order of the page, or where one cannot see that it is there.
KEYBOARD = """() => {
    const looks = each => {
        const style = getComputedStyle(each);
        return [style.outlineStyle, style.outlineWidth, style.boxShadow, style.borderColor, style.backgroundColor, style.color,
            style.textDecorationLine].join(' ');
    };
    const reachable = 'a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex]:not([tabindex="-1"])';
    const troubles = [], named = each => each.outerHTML.slice(0, 120);
    for (const each of document.querySelectorAll(reachable)) {
        if (!each.checkVisibility() || each.disabled) continue;
        if (each.tabIndex > 0) troubles.push('out of order: ' + named(each));
        document.activeElement.blur();
        const before = looks(each);
        each.focus({focusVisible: true});
        if (document.activeElement !== each) troubles.push('not reached: ' + named(each));
        else if (looks(each) === before) troubles.push('focus not seen: ' + named(each));
    }
    for (const each of document.querySelectorAll('body *')) {
        if (getComputedStyle(each).cursor === 'pointer' && !each.closest(`${reachable}, label, svg`))
            troubles.push('only for a mouse: ' + named(each));
    }
    return troubles;
}"""

#: No colour or size is on its way to another.
SETTLED = """() => new Promise(requestAnimationFrame).then(() => Promise.all(
    document.getAnimations().filter(each => each instanceof CSSTransition).map(each => each.finished.catch(() => null))))"""


@pytest.fixture
def addresses(
    browser: Browser, settings: Settings, monkeypatch: pytest.MonkeyPatch, short: Path, redis_url: str
) -> list[str]:
    return filled(settings, monkeypatch, short)


@pytest.fixture
def said(addresses: list[str], open_page: Open) -> tuple[Page, list[str]]:
    return open_page("/admin/tasks_demo/", script=AXE, reduced_motion="reduce")


def _look(page: Page, scheme: Literal["light", "dark"], width: int) -> None:
    """Show the page that is open as to a user with this colour scheme and a window of this width."""
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate(SETTLED)


def _troubles(page: Page, address: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if page.evaluate("document.documentElement.scrollWidth - innerWidth") > 0:
        found["width"] = "scrolls sideways"
    if address.startswith("/admin/tasks_demo"):
        found["axe-core"] = page.evaluate(RUN_AXE)
        found["by keyboard"] = page.evaluate(KEYBOARD)
    return {what: each for what, each in found.items() if each}


def test_screens_have_no_serious_finding_and_no_message_and_work_by_keyboard(
    said: tuple[Page, list[str]], addresses: list[str]
) -> None:
    """Each is loaded once, narrow and dark, and then looked at again in a wide window and in light."""
    page, complaints = said
    found: dict[str, Any] = {}
    for address in addresses:
        _look(page, "dark", 360)
        page.goto(address)
        page.wait_for_load_state("load")
        found[f"{address} dark and narrow"] = _troubles(page, address)
        _look(page, "light", 1280)
        found[f"{address} light and wide"] = _troubles(page, address)
    found = {where: what for where, what in found.items() if what}
    assert found == {}, "\n".join(f"{where}: {what}" for where, what in found.items())
    assert complaints == []
    page.evaluate("document.body.setAttribute('onclick', 'alert(1)')")  # the policy does forbid
    assert any("Content Security Policy" in text for text in complaints)
