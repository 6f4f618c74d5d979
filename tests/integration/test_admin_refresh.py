"""Screens show the bank's books as of now, and never fail because the bank does."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
from django.test import Client
from pytest_django import Settings

from tasks_demo import admin
from tasks_demo.bank.client import BankClient
from tasks_demo.dashboard import refresh as module
from tasks_demo.dashboard.refresh import Refresher
from tasks_demo.ledger import effects
from tasks_demo.models import Event, Tally
from tests.integration.ledger_rows import append, event, life

pytestmark = [pytest.mark.django_db(transaction=True, databases="__all__"), pytest.mark.usefixtures("ledger")]

LIST = "/admin/tasks_demo/"


@pytest.fixture(autouse=True)
def _a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "refresh", Refresher())


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time enough for a bank on a busy machine."""
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 20.0)
    monkeypatch.setattr(module, "BUDGET_SECONDS", 60.0)


@pytest.fixture
def deaf() -> Iterator[str]:
    """The address of something that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def _task(task_id: str) -> None:
    append(life(task_id, "published", "received", "started", "returned"))


@pytest.mark.usefixtures("roomy")
def test_a_new_debit_is_on_the_next_page(admin_client: Client, settings: Settings, bank_url: str) -> None:
    settings.TASKS_DEMO_BANK_URL = bank_url
    task_id = str(uuid.uuid4())
    _task(task_id)
    BankClient(bank_url).debit("customer-1", 1999, task_id, source=task_id)
    response = admin_client.get(LIST)
    assert response.context["freshness"].trouble == ""
    tally = Tally.objects.get(task_id=task_id)
    assert (tally.effects, tally.verdict) == (1, "ok")


@pytest.mark.usefixtures("roomy")
def test_what_ended_without_a_debit_is_lost_once_the_books_were_read(settings: Settings, bank_url: str) -> None:
    settings.TASKS_DEMO_BANK_URL = bank_url
    _task("gone")
    assert Tally.objects.get(task_id="gone").verdict == "unresolved"
    assert Refresher()().trouble == ""
    assert Tally.objects.get(task_id="gone").verdict == "lost"


@pytest.mark.usefixtures("roomy")
def test_many_to_settle_are_settled_in_parts(
    settings: Settings, bank_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.TASKS_DEMO_BANK_URL = bank_url
    monkeypatch.setattr(effects, "BATCH", 1)
    _task("a")
    _task("b")
    Refresher()()
    assert Event.objects.filter(kind="settled").count() == 1
    Refresher()()
    assert Event.objects.filter(kind="settled").count() == 2


def test_books_that_are_too_long_are_read_in_parts_and_nothing_is_called_lost(
    settings: Settings, bank_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.TASKS_DEMO_BANK_URL = bank_url
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 20.0)
    monkeypatch.setattr(module, "BUDGET_SECONDS", 0.0)
    _task("perhaps")
    BankClient(bank_url).debit("customer-1", 1999, str(uuid.uuid4()))
    assert "reload" in Refresher()().trouble
    assert Tally.objects.get(task_id="perhaps").verdict == "unresolved"


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "not an address", "ftp://127.0.0.1", "http://["])
def test_without_a_bank_the_page_says_so(admin_client: Client, settings: Settings, address: str) -> None:
    settings.TASKS_DEMO_BANK_URL = address
    append([event("published", 0, task_id="t", operation="t", pattern="acks_late", books="bank")])
    for page in (LIST, LIST + "tally/t/change/"):
        response = admin_client.get(page)
        assert response.status_code == 200
        assert "Effects as of an earlier reading: " in " ".join(response.content.decode().split())


def test_a_bank_that_never_answers_costs_little_and_is_asked_once(
    settings: Settings, deaf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.TASKS_DEMO_BANK_URL = deaf
    copy = Refresher(pause_seconds=60)
    attempt = Mock(wraps=copy._attempt)
    monkeypatch.setattr(copy, "_attempt", attempt)
    began = time.monotonic()
    assert copy().trouble == "the bank does not answer"
    assert time.monotonic() - began < 3.0
    assert copy().trouble == "the bank does not answer"
    assert attempt.call_count == 1


def test_others_do_not_wait_for_the_one_who_asks(
    settings: Settings, deaf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.TASKS_DEMO_BANK_URL = deaf
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 5.0)
    copy = Refresher(pause_seconds=60)
    asking = threading.Thread(target=copy)
    asking.start()
    deadline = time.monotonic() + 5
    while not copy._lock.locked():
        assert time.monotonic() < deadline, "the first attempt never began"
    assert copy().as_of is None
    assert asking.is_alive(), "the second caller waited"
    asking.join(30)
    assert not asking.is_alive()
