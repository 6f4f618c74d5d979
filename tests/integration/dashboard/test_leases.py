"""The screen of leases: who holds which operation, whether the holder lives, what is completed, and what cannot be told."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from django.test import Client
from pytest_django import Settings

from tasks_demo.core.conf import settings as ours
from tasks_demo.dashboard import leases
from tasks_demo.dashboard.needs import AnswerCache
from tasks_demo.leases import listing
from tasks_demo.leases.process import this_process
from tasks_demo.leases.redis_client import connect
from tasks_demo.leases.stores import configured_store
from tests.integration.dashboard.worker_rows import ended_process

pytestmark = [pytest.mark.django_db(transaction=True, databases="__all__"), pytest.mark.usefixtures("redis_url")]

PAGE = "/admin/tasks_demo/tally/leases/"
HOSTILE = "{a}*&<b>Grüße</b> '\u202ex' %7B"


@pytest.fixture(autouse=True)
def _empty(redis_url: str) -> None:
    with connect(redis_url, 5.0) as client:
        client.flushdb()


def rows(response: Any) -> list[str]:
    assert response.status_code == 200
    body = re.search(r"<tbody>(.*)</tbody>", response.content.decode(), re.DOTALL)
    return re.findall(r"<tr>.*?</tr>", re.sub(r"\s+", " ", body[1])) if body else []


def claim(operation: str, who: str = "") -> Any:
    return configured_store().claim(operation, "digest", who)


def test_held_ones_come_first_with_the_life_of_their_holder(staff: Client) -> None:
    claim("here", str(this_process("task-1")))
    claim("killed", f"{ended_process()}task-2")
    configured_store().complete(claim("done", str(this_process("task-3"))), '"paid"')
    configured_store().release(claim("failed", ""))
    claim(HOSTILE, "anything but a process")
    shown = {re.search(r"<code>(.*?)</code>", row)[1]: row for row in rows(staff.get(PAGE))}  # type: ignore[index]
    assert list(shown)[3:] == ["done", "failed"]
    assert "exists here" in shown["here"]
    assert "unless renewed" in shown["here"]
    assert "/admin/tasks_demo/tally/task_5F1/change/" in shown["here"] or "task-1" in shown["here"]
    assert "held by a dead process" in shown["killed"]
    assert "gone" in shown["killed"]
    assert "completed" in shown["done"]
    assert "6 bytes" in shown["done"]
    assert "released" in shown["failed"]
    (hostile,) = [row for name, row in shown.items() if "Grüße" in name]
    assert "<b>" not in hostile
    # Its link leads to the page that shows and forgets it.
    link = re.search(r'href="([^"]*look[^"]*)"', hostile)
    assert link
    assert "dedup_lock" in staff.get(link[1].replace("&amp;", "&")).content.decode()


def test_search_takes_no_letter_for_a_pattern(staff: Client, settings: Settings) -> None:
    settings.TASKS_DEMO_KEY_PREFIX = "shop[1]?:"
    for operation in ("charge:1", "charge:2", "other", HOSTILE):
        claim(operation)
    assert len(rows(staff.get(PAGE, {"q": "charge:"}))) == 2
    assert len(rows(staff.get(PAGE, {"q": "{a}*"}))) == 1
    assert rows(staff.get(PAGE, {"q": "*"})) == []
    assert "has a lease record" in staff.get(PAGE, {"q": "[a-z]*\0"}).content.decode()


def test_leases_page_says_that_its_list_is_truncated(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        claim(f"op-{number}")
    monkeypatch.setattr(listing, "MOST_RECORDS", 3)
    response = staff.get(PAGE)
    assert len(rows(response)) == 3
    assert "There may be more" in response.content.decode()


def test_leases_page_ignores_other_keys(staff: Client, redis_url: str) -> None:
    with connect(redis_url, 5.0) as client:
        client.set(f"{ours.KEY_PREFIX}op:{{not-ours}}", "a string")
        client.hset(f"{ours.KEY_PREFIX}op:{{empty}}", "state", "claimed")
    shown = rows(staff.get(PAGE))
    assert len(shown) == 2
    assert any("damaged" in row for row in shown)


def test_leases_page_says_in_time_that_redis_does_not_answer(staff: Client, settings: Settings) -> None:
    settings.TASKS_DEMO_REDIS_URL = "redis://:swordfish@10.255.255.1:6379/0"
    began = time.monotonic()
    shown = staff.get(PAGE).content.decode()
    assert time.monotonic() - began < 2.0
    assert "Redis did not list the leases" in shown
    assert "swordfish" not in shown
    settings.TASKS_DEMO_REDIS_URL = ""
    assert "TASKS_DEMO_REDIS_URL is not set" in staff.get(PAGE).content.decode()


def test_overview_names_those_that_nobody_works_on(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "/admin/tasks_demo/tally/overview/"
    monkeypatch.setattr(leases, "_looked", AnswerCache(10.0))
    claim("here", str(this_process("task-1")))
    claim("killed", f"{ended_process()}task-2")
    text = admin_client.get(page).content.decode()
    assert f'href="{PAGE}">1 operation held by a claim that nobody works on<' in text
    claim("killed too", f"{ended_process()}task-3")
    assert ">1 operation held" in admin_client.get(page).content.decode(), "Redis is not asked with every poll"
    monkeypatch.setattr(leases, "_looked", AnswerCache(0.0))
    assert ">2 operations held" in admin_client.get(page).content.decode()


def test_overview_says_that_redis_does_not_answer(admin_client: Client, settings: Settings) -> None:
    settings.TASKS_DEMO_REDIS_URL = "redis://:swordfish@127.0.0.1:1/0"
    text = admin_client.get("/admin/tasks_demo/tally/overview/").content.decode()
    assert "Leases cannot be read" in text
    assert "swordfish" not in text
