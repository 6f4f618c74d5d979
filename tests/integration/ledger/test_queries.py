"""Finding a task, and its timeline."""

from __future__ import annotations

import pytest

from tasks_demo.ledger.events import EFFECT
from tasks_demo.ledger.queries import find, timeline
from tasks_demo.ledger.store import store
from tests.integration.ledger.ledger_table import row

pytestmark = pytest.mark.usefixtures("ledger")


def test_queries_find_a_task_by_the_beginning_of_its_id_if_that_names_one_only() -> None:
    store.append([row("received", "abc-1"), row("received", "abc-2"), row("received", "abc")])
    found = {text: find(text) for text in ("abc-1", "abc-", "abc", "ab", "", "zzz", "%", "_")}
    assert {text: tally and tally.task_id for text, tally in found.items()} == {
        "abc-1": "abc-1", "abc-": None, "abc": "abc", "ab": None, "": None, "zzz": None, "%": None, "_": None,
    }  # fmt: skip


def test_queries_timeline_has_the_tasks_events_and_its_operations_effects() -> None:
    store.append([row("started", "t1", operation="o"), row("started", "t2", operation="o")])
    store.append([row(EFFECT, "t2", operation="o", detail={"amount": 5, "account": "c"})])
    tally = find("t1")
    assert tally is not None
    steps = list(timeline(tally))
    assert [step.kind for step in steps] == ["started", "effect"]
    assert steps[1].what == "the books: amount 5, account c"
    assert steps[1].after_ms >= 0
