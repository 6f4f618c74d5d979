from __future__ import annotations

import itertools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_demo.core.exceptions import InvalidOperationKey, InvalidSetting
from tasks_demo.leases.keys import record_key, validate_operation

HOSTILE = ["{}", "}{", "{a}", "*", "a:b", "a b", "%7B", "é", "订单", "😀", "../x", "\\", "'\"", "%", "{" * 200]


@pytest.mark.parametrize("operation", HOSTILE)
def test_validate_operation_returns_an_allowed_key_unchanged(operation: str) -> None:
    assert validate_operation(operation) == operation


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (17, "not int"),
        (None, "not NoneType"),
        (b"order", "not bytes"),
        ("", "empty"),
        ("x" * 201, "201 characters"),
        ("a\nb", "U+000A"),
        ("a\0", "U+0000"),
        ("\x1b[2J", "U+001B"),
        ("\x7f", "U+007F"),
        ("\x85", "U+0085"),
        ("a\u2028b", "U+2028"),
        ("\ud800", "surrogate"),
        ("a\udfff", "surrogate"),
    ],
)
def test_validate_operation_refuses_a_key_with_a_sentence(key: object, says: str) -> None:
    with pytest.raises(InvalidOperationKey, match="Nothing was run") as refused:
        validate_operation(key)
    assert says in str(refused.value).replace("surrogate pair", "surrogate")


def test_validate_operation_allows_the_longest_key() -> None:
    assert validate_operation("é" * 200)


def test_record_key_has_the_documented_form() -> None:
    assert record_key("tasks_demo:", "charge:order 17") == "tasks_demo:op:{charge%3Aorder%2017}"


def test_record_key_validates_the_operation() -> None:
    with pytest.raises(InvalidOperationKey):
        record_key("p:", "a\nb")


@pytest.mark.parametrize("prefix", ["{x}:", "a{", "}"])
def test_keys_prefix_cannot_bring_a_hash_tag_of_its_own(prefix: str) -> None:
    with pytest.raises(InvalidSetting, match="brace"):
        record_key(prefix, "order")


def test_record_keys_of_hostile_operations_differ() -> None:
    keys = {record_key("p:", operation) for operation in HOSTILE}
    assert len(keys) == len(HOSTILE)


@given(st.text(min_size=1, max_size=200))
def test_record_key_has_one_hash_tag_whatever_the_operation(operation: str) -> None:
    try:
        key = record_key("p:", operation)
    except InvalidOperationKey:
        return
    assert key.startswith("p:op:{")
    assert key.endswith("}")
    inside = key[len("p:op:{") : -1]
    assert inside
    assert set(inside) <= set(string.ascii_letters + string.digits + "_.-~%")


@given(st.lists(st.text(alphabet="%7Bb{}:/é", min_size=1, max_size=4), min_size=2, max_size=20, unique=True))
def test_record_key_encoding_is_injective(operations: list[str]) -> None:
    for one, other in itertools.combinations(operations, 2):
        assert record_key("p:", one) != record_key("p:", other)
