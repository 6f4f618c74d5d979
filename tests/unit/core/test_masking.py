"""Masked arguments: which values are hidden, at which depth, in which texts, and what hostile texts cost."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_django import Settings

from tasks_demo.core.masking import MASK, masked, masked_body, masked_call, masked_text


def test_masked_hides_values_of_declared_names_at_any_depth() -> None:
    value = {"Password": "x", "user": {"api_key": 1, "name": "n"}, "list": [{"credit_card": [1, 2]}, ("a",)], 7: 8}
    assert masked(value) == {
        "Password": MASK, "user": {"api_key": MASK, "name": "n"}, "list": [{"credit_card": MASK}, ["a"]], 7: 8,
    }  # fmt: skip
    assert value["Password"] == "x", "the original is untouched"


def test_masked_call_names_positional_arguments_by_the_task() -> None:
    def run(order: int, token: str, *rest: Any, secret_note: str = "") -> None: ...

    task = SimpleNamespace(run=run)
    assert masked_call(task, [1, "t", "r"], {"secret_note": "s", "a": 1}) == (
        [1, MASK, "r"], {"secret_note": MASK, "a": 1},
    )  # fmt: skip
    assert masked_call(None, [1, "t"], {"a": 1}) == ([MASK, MASK], {"a": 1}), "nothing tells what is what"


@pytest.mark.parametrize(
    "text",
    [
        "password=SECRET", "password: SECRET", "{'password': 'SECRET'}", '{"db_password_2": "SE SECRET"}',
        r'"{\"password\": \"SECRET\"}"', "Authorization: Bearer SECRET", "PASSWORD = 'its SECRET'", "?token=SECRET&a=1",
    ],
)  # fmt: skip
def test_masked_text_hides_what_follows_a_declared_name(text: str) -> None:
    shown = masked_text(f"before {text} ")
    assert "SECRET" not in shown
    assert shown.startswith("before ")
    assert MASK in shown


def test_masked_text_leaves_other_texts_alone() -> None:
    text = "KeyError: 'order' <b>\u202e\n of customer=17"
    assert masked_text(text) == text


def test_masked_body_of_a_dropped_message() -> None:
    assert json.loads(masked_body('[["a"], {"token": "t", "b": 1}, {}]')) == [[MASK], {"token": MASK, "b": 1}]
    assert "gASV" not in masked_body("gASVCQAAAAAAAA==")


def test_masking_invalid_setting_hides_everything(settings: Settings) -> None:
    settings.TASKS_DEMO_MASKED = 17
    assert masked({"a": "b"}) == {"a": MASK}
    assert masked_text("a") == MASK


def test_masking_setting_replaces_the_names(settings: Settings) -> None:
    settings.TASKS_DEMO_MASKED = "customer, iban"
    assert masked({"password": "p", "customer": "c"}) == {"password": "p", "customer": MASK}
    settings.TASKS_DEMO_MASKED = ()
    assert masked({"password": "p"}) == {"password": "p"}


@pytest.mark.parametrize("hostile", ["password" * 20_000, 'token="' * 20_000, "card-" * 30_000 + "=", "\\" * 100_000])
def test_masking_hostile_texts_take_linear_time(hostile: str) -> None:
    began = time.process_time()
    masked_text(hostile)
    assert time.process_time() - began < 2


def test_masking_truncates_an_endless_value() -> None:
    endless: dict[str, Any] = {}
    endless["in"] = endless
    assert MASK in json.dumps(masked(endless))
