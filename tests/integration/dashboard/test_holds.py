"""The screen of leases, beyond dedup_lock: the outbox's jobs that a worker has begun, and the claims of claim_first."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.utils.timezone import now

from tasks_demo.dashboard import holds
from tasks_demo.leases.process import this_process
from tasks_demo.outbox.enqueue import enqueue
from tasks_demo.records.models import Claim, OutboxMessage
from tests.integration.dashboard.worker_rows import ended_process
from tests.integration.ledger.ledger_rows import append, life, ok

pytestmark = [
    pytest.mark.django_db(transaction=True, databases="__all__"),
    pytest.mark.usefixtures("redis_url", "records"),
]
PAGE = "/admin/tasks_demo/tally/leases/"


def section(client: Client, name: str) -> list[str]:
    """The rows of one table of the page, each as one line of text."""
    shown = client.get(PAGE)
    assert shown.status_code == 200
    found = re.search(rf'aria-label="{name}".*?<tbody>(.*?)</tbody>', shown.content.decode(), re.DOTALL)
    rows = re.findall(r"<tr>.*?</tr>", found[1], re.DOTALL) if found else []
    return [re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", row)).strip() for row in rows]


def begun(started_by: str, **fields: Any) -> str:
    task_id = enqueue("tasks_demo.charge_outbox", kwargs={"customer": "c", "amount": 7}, queue="nobody")
    known = {"started_at": now() - timedelta(seconds=90), "seen_at": now() - timedelta(seconds=4)}
    OutboxMessage.objects.filter(task_id=task_id).update(started_by=started_by, **{**known, **fields})
    return task_id


def test_outbox_jobs_that_a_worker_has_begun_with_the_life_of_its_process(staff: Client) -> None:
    waiting = enqueue("tasks_demo.charge_outbox", kwargs={"customer": "c", "amount": 7}, queue="nobody")
    ended = begun(str(this_process("")), finished_at=now())
    killed, alive = begun(f"{ended_process()}w1@host"), begun(f"{this_process('')}w2@host")
    rows = section(staff, "Outbox jobs that a worker has begun")
    assert len(rows) == 2
    (dead,) = [row for row in rows if killed in row]
    (living,) = [row for row in rows if alive in row]
    assert "held by a dead process" in dead
    assert "gone" in dead
    assert "▸ held" in living
    assert "exists here" in living
    seen = re.search(r"([\d.]+) s ago", living)
    assert seen
    assert 4 <= float(seen[1]) < 60
    assert waiting not in " ".join(rows)
    assert ended not in " ".join(rows)


def test_claims_of_claim_first_with_what_became_of_their_jobs(staff: Client) -> None:
    append(ok("done"), life("open", "published", "received", "started"))
    for number, task_id in enumerate(("done", "open", "unknown")):
        Claim.objects.create(
            operation=f"charge:{task_id}", task_id=task_id, digest="d", worker="w1@host",
            claimed_at=now() - timedelta(minutes=number),
        )  # fmt: skip
    rows = section(staff, "Claims of claim_first")
    assert ["succeeded" in rows[0], "running" in rows[1], "not in the ledger" in rows[2]] == [True] * 3
    assert all("w1@host" in row for row in rows)
    assert "charge:done" in rows[0]


def test_holds_page_says_that_its_list_is_truncated(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "MOST_SHOWN", 2)
    for number in range(3):
        Claim.objects.create(operation=f"charge:{number}", task_id="t", digest="d", claimed_at=now())
        begun(str(this_process("")))
    assert [len(section(staff, name)) for name in ("Outbox jobs that a worker has begun", "Claims of claim_first")] == [
        2,
        2,
    ]
    assert staff.get(PAGE).content.decode().count("the latest 2 are shown") == 2


def test_holds_page_has_a_bounded_number_of_queries(staff: Client, django_assert_max_num_queries: Any) -> None:
    for number in range(10):
        Claim.objects.create(operation=f"charge:{number}", task_id=f"t{number}", digest="d", claimed_at=now())
        begun(str(this_process("")))
    for alias in {"default", "shop"} & set(connections):
        with django_assert_max_num_queries(7, using=alias):  # PostgreSQL has all tables in one database
            staff.get(PAGE)
