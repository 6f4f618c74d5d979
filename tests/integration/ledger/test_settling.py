"""Settling: which task IDs are judged after the books were read."""

from __future__ import annotations

import time
from hashlib import sha256

import pytest

from tasks_demo.ledger.events import EFFECT
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.ledger.settling import settle
from tasks_demo.ledger.store import store
from tests.integration.ledger.ledger_table import consistent, row

pytestmark = pytest.mark.usefixtures("ledger")


def test_settling_waits_for_executions_of_the_same_operation() -> None:
    for click in ("one", "two"):
        store.append([row("published", click, operation="op", pattern="claim_first", books="bank")])
    store.append([row("started", "one", operation="op")])
    store.append([row("suppressed", "two", operation="op")])
    assert settle(time.time() + 1, books="bank") == 0
    store.append([row("retried", "one", operation="op"), row("started", "one", operation="op")])
    assert settle(time.time() + 1, books="bank") == 0
    # After the maximum time to wait for an end, the worker counts as dead.
    assert settle(time.time() + 7201 + 1, books="bank") == 1
    store.append([row("failed", "one", operation="op")])
    assert settle(time.time() + 1, books="bank") == 1
    assert set(Tally.objects.values_list("settled", flat=True)) == {1}
    consistent()


def test_settling_notes_only_what_ended_before_and_has_no_effect() -> None:
    for task in ("ended", "running", "charged", "nobody counts"):
        books = "" if task == "nobody counts" else "bank"
        store.append([row("published", task, pattern="acks_early", books=books)])
    store.append([row("returned", task, pattern="acks_early") for task in ("ended", "charged", "nobody counts")])
    store.append([row(EFFECT, "charged")])
    assert settle(time.time() + 1, books="bank") == 1
    assert settle(time.time() + 1, books="bank") == 0
    assert dict(Tally.objects.values_list("task_id", "verdict")) == {
        "ended": "lost",
        "running": "unresolved",
        "charged": "ok",
        "nobody counts": "ok",
    }
    with pytest.raises(ValueError, match="before and books, or run"):
        settle()


def test_settling_keeps_task_ids_apart_that_differ_at_their_end_only() -> None:
    ends = ["x", "y", "x" * 60, "x" * 142, "y" * 142]
    task_ids = [f"{'long ' * 22}pre{end}" for end in ends]
    assert [len(task_id) for task_id in task_ids] == [114, 114, 173, 255, 255]
    # One at the length limit, and one equal to another's hash.
    task_ids += ["z" * 112, "z" * 113, sha256(task_ids[0].encode()).hexdigest()]
    for task_id in task_ids:
        store.append([row("published", task_id, books="bank"), row("failed", task_id, books="bank")])
    assert settle(time.time() + 1, books="bank") == len(task_ids)
    assert settle(time.time() + 1, books="bank") == 0
    assert dict(Tally.objects.values_list("task_id", "settled")) == dict.fromkeys(task_ids, 1)
    assert Event.objects.filter(source=f"settled:{'z' * 112}").exists(), "short ones are as they were"
    consistent()
