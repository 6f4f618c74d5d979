"""The browser, and pages of a logged-in user in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, Page, expect, sync_playwright
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PASSWORD = "of this test"
#: Takes an address and options of the browser's context.
Open = Callable[..., tuple[Page, list[str]]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A running browser. Django's ORM is allowed beside its event loop once it is there, so request it first."""
    if not CHROMIUM.exists():
        message = f"{CHROMIUM} is missing: install the package chromium to run the browser tests."
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        # Playwright's synchronous interface runs an event loop in this thread; Django would refuse the ORM there.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        expect.set_options(timeout=30_000)
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(autouse=True)
def _without_bank(settings: Settings) -> None:
    settings.TASKS_DEMO_BANK_URL = ""


@pytest.fixture
def open_page(browser: Browser, live_server: LiveServer) -> Iterator[Open]:
    """Open an address as a superuser, or as the user ``name``, who then exists.

    Returns the page, and what the browser complains of: the console, errors, and answers of 400 and above.
    """
    with ExitStack() as opened:

        def open_page(address: str, *, name: str = "admin", script: Path | None = None, **options: Any) -> Any:
            if name == "admin":
                User.objects.create_superuser(name, password=PASSWORD)
            context = browser.new_context(base_url=live_server.url, **options)
            opened.callback(context.close)
            if script is not None:
                context.add_init_script(path=script)
            page = context.new_page()
            said: list[str] = []
            page.on("console", lambda message: said.append(f"{page.url}: {message.text}"))
            page.on("pageerror", lambda error: said.append(f"{page.url}: {error}"))
            page.on("response", lambda got: said.append(f"{got.url}: {got.status}") if got.status >= 400 else None)
            page.goto(address)
            # The browser focuses it when the page is drawn, and says so on the console if something else has the focus by then.
            expect(page.get_by_label("Username")).to_be_focused()
            page.get_by_label("Username").fill(name)
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Log in").click()
            expect(page).to_have_url(live_server.url + address)
            page.wait_for_load_state("load")  # by then the admin's scripts have found their buttons
            return page, said

        yield open_page
