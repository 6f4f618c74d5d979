"""Every rule: the unsafe configuration is named, the nearest safe one is not."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Iterator
from typing import Any

import celery
import pytest
from pytest_django import Settings

from tasks_demo.checks import check_delivery, judge
from tasks_demo.checks.rules import RULES
from tasks_demo.outbox import Outbox
from tasks_demo.patterns import AcksEarly, AcksLate, ClaimFirst, Inbox
from tests.unit.checks.configurations import CAUSES, Build, every_night, ids, locked, quarantined, shop

#: Checks of settings that a later Celery introduced.
SINCE = {"W005": "5.7", "W021": "5.6"}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a check opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("number", "unsafe"), [pytest.param(number, unsafe, id=f"{number} {what}") for number, what, unsafe, _ in CAUSES]
)
def test_rule_names_the_unsafe_configuration(number: str, unsafe: Build) -> None:
    if celery.__version__ < SINCE.get(number, ""):
        pytest.skip("this Celery has no such setting")
    app = unsafe()
    found = [message for message in judge(app) if message.id == f"tasks_demo.{number}"]
    assert len(found) == 1, judge(app)
    assert "tasks_demo.W000" not in {message.id for message in judge(app)}
    text, hint = found[0].msg, found[0].hint or ""
    assert "\n" not in text
    assert text.endswith(".")
    assert "write " in hint.lower() or "declare " in hint.lower()
    assert "secret" not in text + hint


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("sound", [pytest.param(sound, id=f"{number} {what}") for number, what, _, sound in CAUSES])
def test_rule_is_silent_on_the_nearest_safe_configuration(sound: Build) -> None:
    assert judge(sound()) == []


@pytest.fixture
def collector_that_asks_for_the_time() -> Iterator[None]:
    """As Hypothesis's, and others' that measure it; it collects at nearly every allocation."""
    before, ask = gc.get_threshold(), lambda *_: time.perf_counter()
    gc.callbacks.append(ask)
    gc.set_threshold(1)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(ask)


@pytest.mark.usefixtures("collector_that_asks_for_the_time")
def test_rule_on_constant_keys_does_not_take_the_collectors_clock_for_the_keys() -> None:
    operation = lambda: str(len([[] for _ in range(100)]))  # noqa: E731
    app = shop({"base": Inbox, "operation": operation}, beat_schedule=every_night())
    (found,) = judge(app)
    assert "the same operation key each time" in found.msg
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("books", "registered", "said"),
    [
        ("payments", {}, "no books of that name"),
        ("payment", {"payments": "tasks_demo.demo.ledger_books.Bookings"}, "no books of that name"),
        ("payments", {"payments": "shop.nowhere.Payments"}, "cannot be imported"),
        ("payments", {"payments": "tasks_demo.core.conf.Settings"}, "not a subclass of"),
        ("payments", {"payments": "tasks_demo.demo.ledger_books.Bookings"}, ""),
        ("", {"recorded": "tasks_demo.demo.ledger_books.Bookings"}, "is reserved"),
    ],
)
def test_rule_names_books_that_nobody_reads(
    settings: Settings, books: str, registered: dict[str, str], said: str
) -> None:
    settings.TASKS_DEMO_BOOKS = registered
    app = shop({"base": AcksLate, "books": books})
    found = [message for message in judge(app) if message.id == "tasks_demo.W017"]
    assert [said in message.msg for message in found] == [True] * bool(said)
    if books == "payment":
        assert found[0].hint == "Write books='payments'."


@pytest.mark.parametrize(
    ("package", "version", "said"),
    [
        ("celery", "5.4.0", "Celery 5.4.0 is installed; tasks_demo is tested on 5.5,"),
        ("django", "6.2a1", "Django 6.2a1"),
        ("celery", "5.6.3", ""),
    ],
)
def test_rule_names_a_version_that_nobody_has_tested(
    monkeypatch: pytest.MonkeyPatch, package: str, version: str, said: str
) -> None:
    monkeypatch.setattr(f"{package}.__version__", version)
    found = [message.msg for message in judge(shop({})) if message.id == "tasks_demo.W025"]
    assert [message.startswith(said) for message in found] == [True] * bool(said)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("PUBLISHABLE", 17, "TASKS_DEMO_PUBLISHABLE is 17; it must be a list of names"),
        (
            "PUBLISHABLE",
            ["tasks_demo.charge_acks_lat"],
            "has 'tasks_demo.charge_acks_lat', which no registered task matches",
        ),
        ("PUBLISHABLE", ["*"], "also allows Celery's own tasks"),
        ("MASKED", {"a": 1}, "TASKS_DEMO_MASKED is {'a': 1}; it must be a list of names"),
        ("PUBLISHABLE", ["tasks_demo.charge_*", "tasks_demo.charge_inbox"], ""),
        ("MASKED", [], ""),
    ],
)
def test_rule_w026_judges_what_people_may_publish_and_see(
    settings: Settings, setting: str, value: Any, said: str
) -> None:
    setattr(settings, f"TASKS_DEMO_{setting}", value)
    found = [message.msg for message in check_delivery() if message.id == "tasks_demo.W026"]
    assert [said in message for message in found] == [True] * bool(said), found


def test_rule_of_every_number_has_a_case() -> None:
    of_settings = {"W010", "W011", "W012", "W013", "W017", "W018", "W019", "W025", "W026"}
    elsewhere = {"W014", "W015", "W016"}  # test_base.py
    assert set(RULES) == {number for number, *_ in CAUSES} | of_settings | elsewhere


@pytest.mark.parametrize(
    ("number", "setting", "unsafe", "sound"),
    [
        ("W002", "DEFER_MAX_SECONDS", 600, 500),
        ("W006", "LEASE_CAP_SECONDS", 299, 300),
        ("W010", "LEASE_SECONDS", 14, 15),
        ("W010", "REDIS_TIMEOUT_SECONDS", "11", "10"),
        ("W011", "RETENTION_SECONDS", 900, 901),
    ],
)
def test_rule_judges_our_own_settings(number: str, setting: str, unsafe: Any, sound: Any, settings: Settings) -> None:
    app = shop(locked())
    setattr(settings, f"TASKS_DEMO_{setting}", unsafe)
    assert ids(app) == [number]
    setattr(settings, f"TASKS_DEMO_{setting}", sound)
    assert ids(app) == []


@pytest.mark.parametrize(("base", "number"), [(ClaimFirst, "W011"), (Inbox, "W011"), (Outbox, "W012")])
def test_rule_judges_what_other_patterns_remember_too(base: Any, number: str, settings: Settings) -> None:
    app = shop({"base": base})
    assert ids(app) == []
    settings.TASKS_DEMO_RETENTION_SECONDS, settings.TASKS_DEMO_OUTBOX_UNFINISHED_SECONDS = 900, 300
    assert ids(app) == [number]
    settings.TASKS_DEMO_RETENTION_SECONDS, settings.TASKS_DEMO_OUTBOX_UNFINISHED_SECONDS = 901, 301
    assert ids(app) == []


@pytest.mark.parametrize("url", ["", "localhost", "amqp://host"])
def test_rule_names_a_lock_without_a_redis_where_a_task_uses_it(url: str, settings: Settings) -> None:
    settings.TASKS_DEMO_REDIS_URL = url
    assert ids(shop(quarantined(time_limit=300))) == []
    assert ids(shop(locked())) == ["W013"]


def test_rule_ignores_our_settings_for_tasks_of_others(settings: Settings) -> None:
    settings.TASKS_DEMO_LEASE_SECONDS = settings.TASKS_DEMO_RETENTION_SECONDS = 1
    settings.TASKS_DEMO_LEASE_CAP_SECONDS = 2
    settings.TASKS_DEMO_DEFER_MAX_SECONDS = 7200
    assert judge(shop({}, {"default_retry_delay": 60})) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (locked(), "attempts and parked messages"),
        (locked(max_attempts=None), ""),
        ({"base": Inbox}, "inbox entries and attempts and parked messages"),
        ({"base": ClaimFirst}, "claims"),
        ({"base": Outbox}, "outbox messages and attempts and parked messages"),
        ({"base": AcksEarly}, ""),
        ({}, ""),
    ],
    ids=str,
)
def test_rule_names_a_pattern_whose_tables_are_not_installed(
    options: dict[str, Any], said: str, settings: Settings
) -> None:
    app = shop(options)
    assert "W019" not in ids(app)
    settings.INSTALLED_APPS = [name for name in settings.INSTALLED_APPS if name != "tasks_demo.records"]
    found = [message for message in judge(app) if message.id == "tasks_demo.W019"]
    assert [f"stores its {said} in tables of tasks_demo.records" in message.msg for message in found] == [True] * bool(
        said
    )
    assert all("'tasks_demo.records' into INSTALLED_APPS" in (message.hint or "") for message in found)
