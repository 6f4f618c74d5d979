"""Rows for every screen, and the address of each: the page of each URL of ours that a person opens with GET."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from django.core.cache import cache
from django.utils.timezone import now
from pytest_django import Settings

from tasks_demo.lab.reports import document
from tasks_demo.leases.process import this_process
from tasks_demo.leases.stores import configured_store
from tasks_demo.ledger import rollups
from tasks_demo.outbox.enqueue import enqueue
from tasks_demo.records.models import ForgottenOperation, OutboxMessage
from tests.integration.dashboard.worker_rows import elsewhere, ended_process, row
from tests.integration.ledger.ledger_rows import append, killed, life, lost, ok
from tests.integration.quarantine.letters import GARBAGE, message
from tests.integration.quarantine.letters import dead as dead_letter
from tests.integration.quarantine.parked_rows import lying
from tests.lab.reports.results import good
from tests.lab.screens.run_folders import NAME, laid, use
from tests.support import emptied

OTHER = "20260102T030406-seed7-0123456789"
TALLY, RECORDS = "/admin/tasks_demo/tally/", "/admin/tasks_demo_records/"


def filled(settings: Settings, monkeypatch: pytest.MonkeyPatch, state: Path) -> list[str]:
    """Commit rows of every kind. Returns the addresses, in the order of the bar."""
    use(settings, monkeypatch, state)
    emptied(settings.REDIS_URL)
    settings.TASKS_DEMO_PUBLISHABLE = ["tasks_demo.charge_*"]
    long = "shop.payments.tasks.charge_the_customer_of_an_order"
    append(ok("fine"), killed("killed-once", run="0123456789:acks_late/kill-main"), lost("broken", task=long))
    append(
        life("open", "published", "received", "started"), life("W" * 200, "published", operation="order:17", task=long)
    )
    append(life("plain", "published", "received", "started", "failed", pattern="", books="", task="shop.mail"))
    for number in range(3):
        append(ok(f"sibling-{number}", operation="order:17", pattern="dedup_lock"))
    failed = enqueue("tasks_demo.charge_outbox", kwargs={"customer": "c", "amount": 7}, queue="nobody")
    append(
        life(failed, "published", "received", "started", "failed", task="tasks_demo.charge_outbox", pattern="outbox")
    )
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        dead_letter(client, GARBAGE * 100)
        dead_letter(client, message("m" * 200, task=long, note="x" * 2000))
    dead = row("w1@test", held=["open"])
    row("w2@test", this_process(""))
    elsewhere("w3@far", 3600)
    parked = lying(task=long, operation="order:17", reason="Begun 5 times and never ended.")
    lying(state="discarded")
    enqueue("tasks_demo.charge_outbox", kwargs={"customer": "c" * 300, "amount": 7})
    overdue = OutboxMessage.objects.latest("pk")
    OutboxMessage.objects.filter(pk=overdue.pk).update(due_at=now() - timedelta(hours=1), error="refused", failures=3)
    store = configured_store()
    store.claim("order:18", "digest", f"{ended_process()}open")
    store.complete(store.claim("order:19", "digest", str(this_process("fine"))), '"paid"')
    forgotten = ForgottenOperation.objects.create(
        operation="order:20", task=long, by="somebody", why="the bank has refunded it", at=now(), outcome="forgotten"
    )
    cache.set("tasks_demo.doctor", (time.time(), [("Redis", "persistence", "fail", "off", "appendonly yes")]))
    result = good() | {"configuration": {"run": "0123456789", "plan": []}}
    for name in (NAME, OTHER):
        (laid(state, name) / "result.json").write_text(document.as_json(result), encoding="utf-8")
    assert rollups.fold(10)
    return [
        "/admin/", "/admin/tasks_demo/", f"{TALLY}overview/?period=week", TALLY, f"{TALLY}?first=problems&q=order:17",
        f"{TALLY}killed-once/change/", f"{TALLY}sibling-1/change/", f"{TALLY}{'W' * 200}/change/",
        f"{TALLY}workers/", f"{TALLY}workers/broker/", f"{TALLY}workers/{dead.pk}/", f"{TALLY}servers/", f"{TALLY}leases/",
        f"{RECORDS}forgottenoperation/", f"{RECORDS}forgottenoperation/{forgotten.pk}/change/",
        f"{RECORDS}forgottenoperation/look/?key=order:18", f"{RECORDS}parked/", f"{RECORDS}parked/{parked.pk}/change/",
        f"{TALLY}failed/", f"{TALLY}dead-letters/", f"{RECORDS}outboxmessage/", f"{RECORDS}outboxmessage/{overdue.pk}/change/",
        f"{TALLY}publish/?task=tasks_demo.charge_acks_late", f"{TALLY}experiments/",
        f"{TALLY}experiments/new/?pattern=acks_late&fault=kill-main&tasks=20&seed=7", f"{TALLY}experiments/{NAME}/",
        f"{TALLY}experiments/{NAME}/stop/", f"{TALLY}experiments/compare/?one={NAME}&other={OTHER}", f"{TALLY}learn/",
        "/admin/auth/user/",
    ]  # fmt: skip
