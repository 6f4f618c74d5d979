"""Every URL of ours in the admin, by a walk over the resolver: who gets in, what a GET or a viewer changes, what is escaped."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connections, router
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from tasks_demo.leases.redis_client import connect
from tasks_demo.outbox.enqueue import enqueue
from tasks_demo.records.models import ForgottenOperation, OutboxMessage
from tests.integration.dashboard.pages import somebody
from tests.integration.ledger.ledger_rows import append, life
from tests.integration.quarantine.parked_rows import lying
from tests.support import Home

pytestmark = pytest.mark.usefixtures("rows")

SCRIPT, RTL = "<script>alert(1)</script>", "\u202e"
HOSTILE = f"{SCRIPT}'\"&{RTL}\n\0{'x' * 10_000}"
#: A hostile text as it fits into a column of 255 characters.
SHORT = f"{SCRIPT}'\"&{'y' * 150}"
TASK = "tasks_demo.charge_outbox"
VIEW_ONLY = ("view_tally", "view_parked", "view_outboxmessage", "view_forgottenoperation")


@pytest.fixture
def rows(records: None) -> dict[str, str]:
    """A hostile row in each of our tables; the number or ID of one for each table."""
    kwargs = {"customer": HOSTILE.replace("\0", ""), "amount": 1, "operation": "op"}
    task_id = enqueue(TASK, kwargs=kwargs, countdown=3600)
    OutboxMessage.objects.filter(task_id=task_id).update(error=HOSTILE.replace("\0", ""), failures=1)
    parked = lying(note=HOSTILE, operation=SHORT, task=SHORT, reason=HOSTILE.replace("\0", ""))
    append(life(SHORT, "published", "received", "started", operation=SHORT, task=SHORT))
    why = HOSTILE.replace("\0", "\\0")
    append(life(task_id, "published", "received", "started", "failed", operation="op", task=TASK, detail={"why": why}))
    forgotten = ForgottenOperation.objects.create(
        operation=SHORT, task=SHORT, by=SHORT, why=HOSTILE.replace("\0", ""), at=parked.parked_at, outcome=SHORT
    )
    return {
        "parked": str(parked.pk),
        "outboxmessage": str(OutboxMessage.objects.get(task_id=task_id).pk),
        "forgottenoperation": str(forgotten.pk),
        "tally": task_id,
    }


def addresses(rows: dict[str, str]) -> list[str]:
    """The path of each URL pattern of ours below the admin, with something in place of what it captures."""

    def walk(patterns: list[Any], before: str) -> Iterator[str]:
        for pattern in patterns:
            here = before + str(pattern.pattern)
            if isinstance(pattern, URLResolver):
                yield from walk(pattern.url_patterns, here)
            elif isinstance(pattern, URLPattern):
                yield here

    found = []
    for route in walk(get_resolver().url_patterns, "/"):
        if not route.startswith("/admin/tasks_demo"):
            continue
        table = next((name for name in rows if f"/{name}/" in route), "")
        route = re.sub(r"<path:object_id>", rows.get(table, "1"), route)
        route = re.sub(r"<int:\w+>", "1", route)
        route = re.sub(r"<(\w+:)?\w+>", "x", route)
        found.append(re.sub(r"[\^$]|\(\?P<.*?\)", "", route))
    assert len(found) > 20, "the walk finds our URLs"
    return found


def root() -> Client:
    client = Client(raise_request_exception=True)
    client.force_login(User.objects.create_superuser("root", password="p"))
    return client


def everything(redis_url: str) -> dict[str, Any]:
    """All rows of our tables and of the admin's log, and the length of each of the broker's lists."""
    known: dict[str, Any] = {}
    for model in apps.get_models():
        if model is LogEntry or (model._meta.managed and model._meta.app_label.startswith("tasks_demo")):
            alias = router.db_for_read(model)
            assert alias in connections
            known[model._meta.label] = sorted(map(repr, model._default_manager.using(alias).values()))
    with connect(redis_url, 5.0) as client:
        lists = [key for key in client.keys("*") if client.type(key) == b"list"]
        known["queues"] = {key: client.llen(key) for key in lists}
    return known


def test_anonymous_visitors_are_sent_to_the_login(rows: dict[str, str]) -> None:
    client = Client()
    for address in addresses(rows):
        for answer in (client.get(address), client.post(address)):
            assert answer.status_code in {301, 302, 404}, address
            if answer.status_code == 302:
                assert answer.headers["Location"].startswith("/admin/login/"), address


def test_staff_without_a_permission_gets_no_page_and_no_link(rows: dict[str, str], redis_url: str) -> None:
    client = somebody(Client(), "nobody")
    before = everything(redis_url)
    for address in addresses(rows):
        for answer in (client.get(address), client.post(address)):
            if answer.status_code == 302:  # Django's own, from an object to its page
                assert answer.headers["Location"] == f"{address}change/", address
            else:
                assert answer.status_code in {403, 404, 405}, (address, answer.status_code)
    assert everything(redis_url) == before
    assert "/admin/tasks_demo" not in client.get("/admin/").content.decode()


def test_get_changes_nothing(rows: dict[str, str], redis_url: str) -> None:
    client = root()
    before = everything(redis_url)
    everybody = "?act=requeue&action=requeue_selected&confirmed=yes&why=x&sure=x&all=1&select_across=1&task=" + TASK
    for address in addresses(rows):
        for query in ("", everybody):
            assert client.get(address + query).status_code < 500, address
    assert everything(redis_url) == before


def test_user_who_may_only_look_changes_nothing(rows: dict[str, str], redis_url: str) -> None:
    client = somebody(Client(), "viewer", *VIEW_ONLY)
    before = everything(redis_url)
    actions = ("requeue", "discard", "hasten", "cancel", "again", "forget", "release")
    for address in addresses(rows):
        if address.endswith("/books/"):
            continue  # reading the books and counting is for every viewer
        for act in actions:
            fields = {
                "action": f"{act}_selected", "_selected_action": list(rows.values()), "index": "0", "select_across": "1",
                "why": "x", "confirmed": "yes", "all": "1", "task_id": rows["tally"], "task": TASK, "key": "op",
                "arguments": '{"customer": "c", "amount": 1}', "token": "a" * 32, "mark": "", "sure": "x",
            }  # fmt: skip
            assert client.post(address, fields).status_code < 500, address
    assert everything(redis_url) == before


def test_screens_show_hostile_texts_as_text(rows: dict[str, str]) -> None:
    client = root()
    shown = 0
    for address in addresses(rows):
        for query in ("", f"?q={SCRIPT}", f"?task={SCRIPT}", f"?key={SCRIPT}"):
            answer = client.get(address + query)
            assert answer.status_code < 500, address + query
            if answer.streaming or "text/html" not in answer.headers.get("Content-Type", ""):
                continue
            page = answer.content.decode()
            assert SCRIPT not in page, address + query
            assert "\0" not in page, address + query
            shown += "&lt;script&gt;alert(1)" in page
    assert shown > 5, "the texts are there"


@pytest.mark.parametrize("text", [HOSTILE, "%'\\"])
def test_screens_answer_a_hostile_search_with_a_page(rows: dict[str, str], text: str) -> None:
    client = root()
    for address in addresses(rows):
        for name in ("q", "task", "key"):
            assert client.get(address, {name: text}).status_code < 500, (address, name)


def test_production_settings_pass_the_deployment_checks(home: Home) -> None:
    production = {
        "DJANGO_PRODUCTION": "1", "DJANGO_SECRET_KEY": secrets.token_urlsafe(50), "DJANGO_ALLOWED_HOSTS": "shop.example",
        "DATABASE_URL": "postgres://user:pass@db.invalid/name", "REDIS_URL": "rediss://redis.invalid/0",
        "BANK_URL": "https://bank.invalid",
    }  # fmt: skip
    done = home.manage("check", "--deploy", "--fail-level", "WARNING", env=production)
    assert done.code == 0, done.out + done.err
    assert "(0 silenced)" in done.out + done.err
    weaker = {"DJANGO_SSL_REDIRECT": "0", "DJANGO_HSTS_SECONDS": "0"}
    done = home.manage("check", "--deploy", "--fail-level", "WARNING", env={**production, **weaker})
    assert done.code == 1
    assert {"security.W004", "security.W008"} <= set(re.findall(r"security\.W\d+", done.err))
