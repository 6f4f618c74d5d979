"""``manage.py relay`` beside the outbox: the thread that reads the books and counts for the dashboard."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import router
from pytest_django import Settings

from tasks_demo.ledger import rollups
from tasks_demo.management.commands.relay import _read_books
from tests.integration.ledger.ledger_rows import append, ok
from tests.integration.project_routers import FailsForAWhile
from tests.support import until


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("ledger")
def test_relay_counts_again_after_a_router_of_the_project_raised(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    settings.TASKS_DEMO_BOOKS_SECONDS = 0.05
    append(ok("fine"))
    failing = FailsForAWhile()
    monkeypatch.setattr(router, "routers", [failing, *router.routers])
    stop = threading.Event()
    thread = threading.Thread(target=_read_books, args=(stop,))
    thread.start()
    try:
        until(lambda: "no shard for this model" in caplog.text, "the first reading fails")
        failing.failing = False
        until(rollups.totals, "a later count")
    finally:
        stop.set()
        thread.join(30)
