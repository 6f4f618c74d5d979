"""Numbers and pauses on a command line: in range, as people write them; otherwise an error message."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_demo.management.arguments import seconds, whole

parse = whole("--tasks", 1, 1_000_000)


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("007", 7), ("1000000", 1_000_000), ("+5", 5)])
def test_whole_number_in_range_is_taken(text: str, number: int) -> None:
    assert parse(text) == number


@pytest.mark.parametrize("text", ["", " ", "7 ", "1_000", "1.0", "1e3", "nan", "inf", "seven", "0x10", "१", "٣", "1\n"])
def test_argument_that_is_not_a_plain_whole_number_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not a whole number; --tasks is 1 to 1000000\."):
        parse(text)


@pytest.mark.parametrize("text", ["0", "-1", "1000001", "-99999999999999999999", "9" * 4000])
def test_argument_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"is out of range; --tasks is 1 to 1000000\."):
        parse(text)


@given(st.text())
def test_argument_of_any_text_is_a_number_in_range_or_a_sentence(text: str) -> None:
    try:
        number = parse(text)
    except argparse.ArgumentTypeError as refusal:
        said = str(refusal)
    else:
        assert 1 <= number <= 1_000_000
        return
    assert "--tasks is 1 to 1000000" in said


def test_argument_number_too_long_for_python_is_a_sentence_too() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="--tasks is 1 to 1000000"):
        parse("9" * 5000)


@pytest.mark.parametrize("text", ["0", "60.1", "-1", "nan", "inf", "x", ""])
def test_pause_out_of_range_is_refused(text: str) -> None:
    assert [seconds(least) for least in ("0.01", "60")] == [0.01, 60.0]
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not a pause; write 0\.01 to 60 seconds"):
        seconds(text)
