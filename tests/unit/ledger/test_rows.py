"""How events count in a tally: pure sums, whatever the batches they come in."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import PurePath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_demo.core.lifecycle import Point
from tasks_demo.ledger.models import OUTCOMES, Tally
from tasks_demo.ledger.rows import COUNTS, EFFECT, FAULT, SETTLED, Row, fold, microseconds
from tasks_demo.ledger.sql import statement


def row(kind: str, task_id: str = "t", at: float = 1.0, **fields: Any) -> Row:
    return Row(at=at, kind=kind, source=f"s{at}", task_id=task_id, **fields)


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
def test_what_each_kind_counts_as(kind: str, columns: set[str]) -> None:
    assert {column for column in COUNTS if row(kind).counts_in(column)} == columns


def test_every_point_is_in_the_table_above() -> None:
    (mark,) = test_what_each_kind_counts_as.pytestmark  # type: ignore[attr-defined]
    assert {kind for kind, _ in mark.args[1]} >= set(map(str, Point))


@pytest.mark.parametrize(("outcome", "count"), [("ok", 1), ("fail", 0), ("info", 0)])
def test_only_a_confirmed_publication_counts(outcome: str, count: int) -> None:
    assert fold([row("published", detail={"outcome": outcome})])["t"].counts["publications"] == count


@pytest.mark.parametrize(("detail", "count"), [({"landed": True}, 1), ({"landed": False}, 0), ({}, 0)])
def test_only_a_fault_that_landed_counts(detail: dict[str, Any], count: int) -> None:
    assert fold([row(FAULT, detail=detail)])["t"].counts["faults"] == count


def test_effects_and_events_about_nobody_make_no_sum() -> None:
    assert fold([row(EFFECT), row("rejected", task_id="")]) == {}


def test_the_first_that_knows_names_the_operation() -> None:
    summed = fold([row("received"), row("started", operation="o1", pattern="p"), row("acked", operation="o2")])["t"]
    assert (summed.operation, summed.pattern) == ("o1", "p")


def _endless() -> dict[str, Any]:
    detail: dict[str, Any] = {}
    detail["itself"] = detail
    return detail


class _Mute:
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("detail", "kept"),
    [
        ({}, {}),
        ({"a": 1, "b": [None, True, 1.5, "x"]}, {"a": 1, "b": [None, True, 1.5, "x"]}),
        ({"by": {("eu", 1): 2, b"k": 3}}, {"by": {"('eu', 1)": 2, "b'k'": 3}}),
        ({"at": PurePath("a\0b")}, {"at": "a\\0b"}),
        ({"n": float("nan"), "t": ("half \ud800",)}, {"n": "nan", "t": ["half \\ud800"]}),
        ({"n": 10**5000}, {"not_written": "ValueError"}),
        (_endless(), {"not_written": "RecursionError"}),
        ({"who": _Mute()}, {"not_written": "RuntimeError"}),
    ],
    ids=["empty", "plain", "names that are no text", "an object", "not in JSON", "a huge number", "endless", "mute"],
)
def test_any_detail_becomes_json_that_a_database_takes(detail: dict[str, Any], kept: dict[str, Any]) -> None:
    assert json.loads(row("failed", detail=detail).detail_as_json()) == kept


rows = st.lists(
    st.builds(
        lambda kind, task, at: row(kind, task, at),
        st.sampled_from(sorted({kind for kinds in COUNTS.values() for kind in kinds})),
        st.sampled_from(["a", "b", ""]),
        st.floats(0, 1e9),
    ),
    max_size=30,
)


@given(rows, st.integers(0, 30))
def test_sums_of_batches_add_up_to_the_sum_of_all(events: list[Row], cut: int) -> None:
    whole, head, tail = fold(events), fold(events[:cut]), fold(events[cut:])
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
def test_only_an_execution_that_was_killed_is_abandoned(detail: dict[str, Any], counted: int) -> None:
    summed = fold([row("failed", detail=detail)])["t"]
    assert (summed.counts["failed"], summed.counts["abandoned"]) == (1, counted)


@given(st.floats(0, 4e9))
def test_a_moment_is_the_same_number_before_and_after_the_database_had_it(at: float) -> None:
    stored = datetime.fromtimestamp(at, UTC)
    assert microseconds(at) == microseconds(stored.timestamp())
    assert microseconds(at) == (stored - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("kind", "detail", "code"),
    [
        ("received", {}, 0), ("suppressed", {}, 0), ("deferred", {"why": "held"}, 0), ("published", {"outcome": "ok"}, 0),
        ("deferred", {"requeued": True}, 1), ("published", {"requeued": True}, 1), ("replaced", {}, 1), ("started", {}, 2),
        ("retried", {}, 3), ("returned", {}, 4), ("failed", {}, 5), ("expired", {}, 6), ("revoked", {}, 7),
        ("rejected", {}, 8), ("ignored", {}, 8), ("quarantined", {}, 9),
    ],
)  # fmt: skip
def test_what_each_kind_says_of_the_state(kind: str, detail: dict[str, Any], code: int) -> None:
    assert row(kind, at=2.5, detail=detail).state() == (2_500_000 * 16 + code if code else 0)
    assert not code or OUTCOMES[code]


def test_the_sql_has_the_columns_in_the_order_of_the_table() -> None:
    inserted = re.search(r"INSERT INTO tasks_demo_tally AS t \((.*?)\)", statement("keep_tally"), re.S)
    assert inserted
    columns = re.sub(r"\s", "", inserted[1]).split(",")
    known = ["task_id", "operation", "pattern", "run", "books", "task"]
    assert columns == [*known, *COUNTS, "state", "effects", "first_at", "last_at"]


def test_every_count_is_a_column_of_the_tally_and_is_added_up() -> None:
    fields = {field.name for field in Tally._meta.get_fields()}
    for column in COUNTS:
        assert column in fields
        assert f"{column} = t.{column} + excluded.{column}" in statement("keep_tally")


def test_statements_come_without_their_comments() -> None:
    assert "--" not in statement("append_event")
    assert statement("append_event").count("%s") == 10
