"""Fills in Django's form."""

from __future__ import annotations

from playwright.sync_api import Page, expect


def log_in(page: Page, name: str = "admin") -> None:
    """Log in on the page that asks for it."""
    # The browser focuses it when the page is drawn, and says so on the console if something else has the focus by then.
    expect(page.get_by_label("Username")).to_be_focused()
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill("of this test")
    page.get_by_role("button", name="Log in").click()
