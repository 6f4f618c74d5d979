"""How events count in a tally, however they are batched."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_demo.core.lifecycle import Point
from tasks_demo.ledger.events import EFFECT, FAULT, SETTLED, EventData
from tasks_demo.ledger.models import OUTCOMES, Tally
from tasks_demo.ledger.sql import statement
from tasks_demo.ledger.tallies import COUNTS, counts_in, state_of, sum_events


def event(kind: str, task_id: str = "t", at: float = 1.0, **fields: Any) -> EventData:
    return EventData(at=at, kind=kind, source=f"s{at}", task_id=task_id, **fields)


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("published", {"publications"}),
        ("fetched", set()),
        ("received", {"deliveries"}),
        ("claimed", set()),
        ("started", {"executions"}),
        ("effect_begun", set()),
        ("effect_done", set()),
        ("completed", set()),
        ("returned", {"returned", "ended"}),
        ("acking", set()),
        ("acked", set()),
        ("suppressed", {"suppressed", "ended"}),
        ("deferred", {"deferred"}),
        ("lease_lost", set()),
        ("fenced", {"fenced"}),
        ("failed", {"failed", "ended"}),
        ("retried", set()),
        ("rejected", {"ended"}),
        ("ignored", {"ended"}),
        ("expired", {"ended"}),
        ("revoked", {"ended"}),
        ("replaced", set()),
        ("quarantined", {"quarantined", "ended"}),
        (SETTLED, {"settled"}),
        (EFFECT, set()),
    ],
)
def test_counts_in_of_each_kind(kind: str, columns: set[str]) -> None:
    assert {column for column in COUNTS if counts_in(event(kind), column)} == columns


def test_counts_in_is_tested_for_every_point() -> None:
    (mark,) = test_counts_in_of_each_kind.pytestmark  # type: ignore[attr-defined]
    assert {kind for kind, _ in mark.args[1]} >= set(map(str, Point))


@pytest.mark.parametrize(("outcome", "count"), [("ok", 1), ("fail", 0), ("info", 0)])
def test_fold_counts_only_confirmed_publications(outcome: str, count: int) -> None:
    assert sum_events([event("published", detail={"outcome": outcome})])["t"].counts["publications"] == count


@pytest.mark.parametrize(("detail", "count"), [({"landed": True}, 1), ({"landed": False}, 0), ({}, 0)])
def test_fold_counts_only_injected_faults(detail: dict[str, Any], count: int) -> None:
    assert sum_events([event(FAULT, detail=detail)])["t"].counts["faults"] == count


def test_fold_ignores_effects_and_events_without_a_task() -> None:
    assert sum_events([event(EFFECT), event("rejected", task_id="")]) == {}


def test_fold_takes_the_operation_of_the_first_event_that_has_one() -> None:
    summed = sum_events(
        [event("received"), event("started", operation="o1", pattern="p"), event("acked", operation="o2")]
    )["t"]
    assert (summed.operation, summed.pattern) == ("o1", "p")


batches = st.lists(
    st.builds(
        lambda kind, task, at: event(kind, task, at),
        st.sampled_from(sorted({kind for kinds in COUNTS.values() for kind in kinds})),
        st.sampled_from(["a", "b", ""]),
        st.floats(0, 1e9),
    ),
    max_size=30,
)


@given(batches, st.integers(0, 30))
def test_fold_of_batches_adds_up_to_the_fold_of_all(events: list[EventData], cut: int) -> None:
    whole, head, tail = sum_events(events), sum_events(events[:cut]), sum_events(events[cut:])
    assert whole.keys() == head.keys() | tail.keys()
    for task_id, summed in whole.items():
        parts = [part[task_id] for part in (head, tail) if task_id in part]
        for column in COUNTS:
            assert summed.counts[column] == sum(part.counts[column] for part in parts)
        assert summed.state == max(part.state for part in parts)
        assert summed.first_at == min(part.first_at for part in parts)
        assert summed.last_at == max(part.last_at for part in parts)


@pytest.mark.parametrize(
    ("detail", "counted"), [({"abandoned": True}, 1), ({"why": "ValueError"}, 0), ({"abandoned": False}, 0)]
)
def test_fold_counts_only_killed_executions_as_abandoned(detail: dict[str, Any], counted: int) -> None:
    summed = sum_events([event("failed", detail=detail)])["t"]
    assert (summed.counts["failed"], summed.counts["abandoned"]) == (1, counted)


@pytest.mark.parametrize(
    ("kind", "detail", "code"),
    [
        ("received", {}, 0), ("suppressed", {}, 0), ("deferred", {"why": "held"}, 0), ("published", {"outcome": "ok"}, 0),
        ("deferred", {"requeued": True}, 1), ("published", {"requeued": True}, 1), ("replaced", {}, 1), ("started", {}, 2),
        ("retried", {}, 3), ("returned", {}, 4), ("failed", {}, 5), ("expired", {}, 6), ("revoked", {}, 7),
        ("rejected", {}, 8), ("ignored", {}, 8), ("quarantined", {}, 9),
    ],
)  # fmt: skip
def test_tally_state_of_each_kind(kind: str, detail: dict[str, Any], code: int) -> None:
    assert state_of(event(kind, at=2.5, detail=detail)) == (2_500_000 * 16 + code if code else 0)
    assert not code or OUTCOMES[code]


def test_update_tally_sql_has_the_columns_in_the_order_of_counts() -> None:
    inserted = re.search(r"INSERT INTO tasks_demo_tally AS t \((.*?)\)", statement("update_tally"), re.S)
    assert inserted
    columns = re.sub(r"\s", "", inserted[1]).split(",")
    known = ["task_id", "operation", "pattern", "run", "books", "task"]
    assert columns == [*known, *COUNTS, "state", "effects", "first_at", "last_at"]


def test_update_tally_sql_adds_every_count_to_its_column() -> None:
    fields = {field.name for field in Tally._meta.get_fields()}
    for column in COUNTS:
        assert column in fields
        assert f"{column} = t.{column} + excluded.{column}" in statement("update_tally")


def test_statement_strips_comments() -> None:
    assert "--" not in statement("append_event")
