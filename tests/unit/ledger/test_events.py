"""Events before they are stored: any detail becomes JSON, and times keep their microseconds."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import PurePath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_demo.ledger.events import EventData, microseconds


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
def test_events_detail_as_json_is_accepted_by_databases(detail: dict[str, Any], kept: dict[str, Any]) -> None:
    assert json.loads(EventData(at=1.0, kind="failed", source="s", detail=detail).detail_as_json()) == kept


@given(st.floats(0, 4e9))
def test_events_microseconds_equal_those_of_the_stored_datetime(at: float) -> None:
    stored = datetime.fromtimestamp(at, UTC)
    assert microseconds(at) == microseconds(stored.timestamp())
    assert microseconds(at) == (stored - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)
