"""Events with hostile task IDs and details."""

from __future__ import annotations

from typing import Any

import pytest

from tasks_demo.core.lifecycle import Point, about, reached
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.ledger.store import store
from tests.integration.ledger.ledger_table import consistent, row, subject

pytestmark = pytest.mark.usefixtures("ledger")


@pytest.mark.parametrize("task_id", ["nul\0", "half \ud800 pair", "long " * 100, "'; DROP TABLE x; --", "%s", "☃"])
def test_event_with_a_hostile_task_id_is_kept_as_far_as_a_database_can(task_id: str) -> None:
    someone = subject(task_id)
    with about(someone):
        reached(Point.STARTED)
        reached(Point.RETURNED)
    with about(subject("polite")):
        reached(Point.STARTED)  # also commits the earlier return
    kept = Tally.objects.exclude(task_id="polite").get()
    assert (kept.executions, kept.ended) == (1, 1)
    assert len(kept.task_id) <= 255
    assert kept.task_id[:5] == task_id.replace("\0", "\\0")[:5]
    consistent()


@pytest.mark.parametrize(
    "why",
    [
        "nul \0",
        "half \ud800 pair",
        "a whole pair 😀",
        "a quote ' and %s",
        "\\u0000",
        float("nan"),
        {"x": [float("inf")]},
        {("a", "pair"): 1},
    ],
)
def test_event_with_a_hostile_detail_is_kept_and_blocks_nothing(why: Any) -> None:
    store.append([row("failed", "t", detail={"why": why})])
    kept = Event.objects.get().detail["why"]
    if why in ("a whole pair 😀", "a quote ' and %s", "\\u0000"):
        assert kept == why
    assert kept is not None


def test_event_with_a_detail_that_cannot_be_written_is_named_and_blocks_nothing() -> None:
    itself: dict[str, Any] = {}
    itself["again"] = itself
    store.append([row("failed", "t", detail=itself)])
    assert Event.objects.get().detail == {"not_written": "RecursionError"}
