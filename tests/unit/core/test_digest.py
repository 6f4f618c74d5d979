"""The digest of a call: the same in the publisher and in the worker, and another one for another call."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import hashlib
import json
import threading
import uuid
import zoneinfo
from typing import Any

import pytest
from django.utils.translation import gettext_lazy
from hypothesis import assume, given
from hypothesis import strategies as st
from kombu import serialization

from tasks_demo.core.digest import digest
from tasks_demo.core.exceptions import ArgumentsNotJson

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_digest_ignores_the_order_of_keys_at_any_depth() -> None:
    assert digest("t", [{"a": 1, "b": {"c": 2, "d": 3}}], {"x": 1, "y": 2}) == digest(
        "t", ({"b": {"d": 3, "c": 2}, "a": 1},), {"y": 2, "x": 1}
    )


def test_digest_takes_keys_that_are_not_text_for_the_text_that_json_makes_of_them() -> None:
    assert digest("t", [{2: "b", 10: "a"}], {}) == digest("t", [{"2": "b", "10": "a"}], {})


@given(st.lists(JSON, max_size=3), st.dictionaries(st.text(), JSON, max_size=3))
def test_digest_of_what_the_broker_hands_over_is_that_of_what_was_published(
    args: list[Any], kwargs: dict[str, Any]
) -> None:
    args_there, kwargs_there = json.loads(json.dumps([args, kwargs]))
    assert digest("t", args, kwargs) == digest("t", args_there, kwargs_there)


def test_digest_of_different_arguments_differs() -> None:
    calls: list[tuple[list[Any], dict[str, Any]]] = [
        ([], {}), ([1], {}), ([1.0], {}), (["1"], {}), ([True], {}), ([None], {}), ([[1]], {}), ([], {"a": 1}),
        ([{"a": 1}], {}), ([1, 2], {}), ([2, 1], {}), (["é"], {}), (["e\u0301"], {}), (["\ud800"], {}),
    ]  # fmt: skip
    assert len({digest("t", args, kwargs) for args, kwargs in calls}) == len(calls)


def test_digest_of_another_task_differs() -> None:
    assert digest("shop.invoice", [17], {}) != digest("shop.ship", [17], {})


def test_digest_never_changes_between_versions() -> None:
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
    [threading.Lock(), (n for n in ()), lambda: 1, _endless()],
    ids=["lock", "generator", "lambda", "endless"],
)
def test_digest_of_what_no_serializer_can_carry_is_a_clear_error(argument: object) -> None:
    with pytest.raises(ArgumentsNotJson, match=r"no serializer supports them.*Nothing was published or run"):
        digest("t", [argument], {})


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Address:
    town: str
    tags: set[str] = dataclasses.field(default_factory=lambda: {"b", "a"})


@pytest.mark.parametrize(
    ("serializer", "value"),
    [
        *(
            ("json", value)
            for value in [
                uuid.UUID(int=7), decimal.Decimal("1.10"), datetime.date(2026, 1, 2), datetime.time(3, 4, 5, 6),
                datetime.datetime(2026, 1, 2, 3, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
                b"bytes", b"\xff", gettext_lazy("January"), {1: 2, None: 3}, (1, (2,)), float("nan"), float("inf"),
                {"__type__": "uuid"}, "\ud800", {"a": [{"b": uuid.UUID(int=8)}]},
            ]
        ),
        *(
            ("pickle", value)
            for value in [
                uuid.UUID(int=7), datetime.timedelta(days=1, microseconds=2), {"b", "a", "c"}, frozenset([frozenset("a")]),
                Color.RED, Address("x"), 1j, bytearray(b"x"), collections.deque([1, 2]), fractions.Fraction(1, 3), object(),
                {(1, 2): 3}, {uuid.UUID(int=7): {Color.RED: 1}}, ValueError("why"), datetime.datetime, range(3),
            ]
        ),
        *(("yaml", value) for value in [datetime.date(2026, 1, 2), b"\xff", {1: 2}, {"a", "b"}, float("inf"), "é"]),
    ],
    ids=lambda value: value if value in ("json", "pickle", "yaml") else type(value).__name__,
)  # fmt: skip
def test_digest_of_what_a_serializer_carries_is_the_same_when_it_arrives(serializer: str, value: object) -> None:
    serialization.enable_insecure_serializers([serializer])
    try:
        kind, encoding, text = serialization.dumps([value], serializer=serializer)
        arrived = serialization.loads(text, kind, encoding, accept=[kind])
    finally:
        serialization.disable_insecure_serializers(["json"])
    assert digest("t", [value], {}) == digest("t", arrived, {})
    assert digest("t", [value], {}) != digest("t", [[value]], {})


KEYS = (
    st.text(max_size=2) | st.integers() | st.booleans() | st.none() | st.binary(max_size=2) | st.floats() | st.uuids()
)
LEAVES = (
    JSON | st.floats() | st.binary(max_size=3) | st.binary(max_size=3).map(bytearray) | st.dates() | st.times() | st.timedeltas()
    | st.datetimes(timezones=st.none() | st.just(datetime.UTC)) | st.uuids() | st.decimals(allow_nan=False)
    | st.sampled_from([Color.RED, Address("x"), -0.0, 10**30]) | st.sets(st.text(max_size=2))
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml"])
@given(value=VALUES)
def test_digest_of_whatever_a_serializer_carries_is_the_same_when_it_arrives(serializer: str, value: Any) -> None:
    serialization.enable_insecure_serializers([serializer])
    try:
        kind, encoding, text = serialization.dumps([value], serializer=serializer)
        arrived = serialization.loads(text, kind, encoding, accept=[kind])
    except Exception:  # noqa: BLE001  (this serializer does not carry the value: apply_async refuses it)
        assume(False)
    finally:
        serialization.disable_insecure_serializers(["json"])
    assert digest("t", [value], {}) == digest("t", arrived, {})


def test_digest_takes_a_bytearray_for_the_bytes_that_msgpack_delivers() -> None:
    assert digest("t", [{"a": bytearray(b"x")}], {}) == digest("t", [{"a": b"x"}], {})
    assert digest("t", [memoryview(b"x")], {}) == digest("t", [b"x"], {}) != digest("t", ["x"], {})


def test_digest_of_nesting_too_deep_is_a_clear_error_too() -> None:
    with pytest.raises(ArgumentsNotJson):
        digest("t", [_deep()], {})
