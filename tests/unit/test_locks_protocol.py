from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_demo.exceptions import ArgumentsNotJson
from tasks_demo.locks.protocol import Claimed, Held, digest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_the_order_of_keys_does_not_matter_at_any_depth() -> None:
    assert digest("t", [{"a": 1, "b": {"c": 2, "d": 3}}], {"x": 1, "y": 2}) == digest(
        "t", ({"b": {"d": 3, "c": 2}, "a": 1},), {"y": 2, "x": 1}
    )


def test_keys_that_are_not_text_count_as_the_text_that_json_makes_of_them() -> None:
    assert digest("t", [{2: "b", 10: "a"}], {}) == digest("t", [{"2": "b", "10": "a"}], {})


@given(st.lists(JSON, max_size=3), st.dictionaries(st.text(), JSON, max_size=3))
def test_what_the_broker_hands_over_has_the_digest_of_what_was_published(
    args: list[Any], kwargs: dict[str, Any]
) -> None:
    args_there, kwargs_there = json.loads(json.dumps([args, kwargs]))
    assert digest("t", args, kwargs) == digest("t", args_there, kwargs_there)


def test_different_arguments_have_different_digests() -> None:
    calls: list[tuple[list[Any], dict[str, Any]]] = [
        ([], {}), ([1], {}), ([1.0], {}), (["1"], {}), ([True], {}), ([None], {}), ([[1]], {}), ([], {"a": 1}),
        ([{"a": 1}], {}), ([1, 2], {}), ([2, 1], {}), (["é"], {}), (["e\u0301"], {}), (["\ud800"], {}),
    ]  # fmt: skip
    assert len({digest("t", args, kwargs) for args, kwargs in calls}) == len(calls)


def test_another_task_has_another_digest() -> None:
    assert digest("shop.invoice", [17], {}) != digest("shop.ship", [17], {})


def test_the_digest_never_changes_between_versions() -> None:
    assert digest("t", [17, "é"], {"amount": 5}) == hashlib.sha256(b'["t",[17,"\\u00e9"],{"amount":5}]').hexdigest()


def _endless() -> list[Any]:
    endless: list[Any] = []
    endless.append(endless)
    return endless


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(200_000):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    "argument",
    [object(), b"bytes", {1, 2}, float("nan"), float("inf"), {(1, 2): 3}, {"a": 1j}, _endless()],
    ids=["object", "bytes", "set", "NaN", "infinity", "tuple as key", "complex", "endless"],
)
def test_what_is_not_json_is_a_clear_error(argument: object) -> None:
    with pytest.raises(ArgumentsNotJson, match=r"not plain JSON.*Nothing was run"):
        digest("t", [argument], {})


def test_nesting_too_deep_is_a_clear_error_too() -> None:
    with pytest.raises(ArgumentsNotJson):
        digest("t", [_deep()], {})


def test_replies_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Held(1.0).seconds_left = 2.0  # type: ignore[misc]
    assert Claimed("o", "t", 1, 1, 0.0) == Claimed("o", "t", 1, 1, 0.0)
