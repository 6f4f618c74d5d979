"""The overview as tests ask for it: by itself, as a page or as a poll, and the numbers in it."""

from __future__ import annotations

import re
from collections import OrderedDict

import pytest
from django.core.cache import cache
from django.test import Client
from pytest_django import Settings

from tasks_demo.dashboard import built_in_needs, dead_letters, held_jobs, needs, overview

PAGE = "/admin/tasks_demo/tally/overview/"


def by_itself(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """No books, no Redis, and nothing that another test or request has left."""
    settings.TASKS_DEMO_BOOKS = {}
    settings.TASKS_DEMO_REDIS_URL = ""
    cache.clear()
    # Kept for some time, and so found by other tests of this process: their tasks deserve warnings, their Redis has dead letters.
    monkeypatch.setattr(built_in_needs, "_checked", needs.AnswerCache(0.0))
    monkeypatch.setattr(built_in_needs, "_run_checks", list)
    monkeypatch.setattr(dead_letters, "_looked", needs.AnswerCache(0.0))
    monkeypatch.setattr(dead_letters, "_count", int)
    monkeypatch.setattr(held_jobs, "_remembered", OrderedDict())
    monkeypatch.setattr(overview, "_counts", needs.AnswerCache(0.0))
    monkeypatch.setattr(overview, "_drawn", needs.AnswerCache(0.0))


def polled(client: Client, query: str = "") -> str:
    """What a live part that shows nothing yet gets."""
    response = client.get(PAGE + query, headers={"HX-Request": "true"})
    assert response.status_code == 200
    return response.content.decode()


def cells(text: str, name: str) -> dict[str, int]:
    """Label → number in the row of a pattern or task."""
    rows = re.findall(r'<tr class="of-.*?</tr>', text, re.DOTALL)
    (row,) = (row for row in rows if re.search(rf'scope="row">(<code>)?{re.escape(name)}[ <]', row))
    found = re.findall(r'data-label="([^"]*)">(.*?)</td>', row, re.DOTALL)
    return {label: int(re.sub(r"<[^>]*>", "", cell).replace("–", "0")) for label, cell in found}
