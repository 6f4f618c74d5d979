"""Numbers and foreign text in sentences."""

from __future__ import annotations

import pytest

from tasks_demo.core.wording import counted, escaped, first_line, listed, shown, times
from tests.support import PROJECT


def test_wording_numbers_have_their_noun() -> None:
    assert [counted(number, "job") for number in (0, 1, 2)] == ["no jobs", "1 job", "2 jobs"]
    assert counted(1, "delivery", "deliveries") == "1 delivery"
    assert counted(3, "delivery", "deliveries") == "3 deliveries"
    assert [listed(["a", "b", "c", "d"][:number], 2) for number in range(5)] == [
        "",
        "a",
        "a, b",
        "a, b and 1 more",
        "a, b and 2 more",
    ]
    assert [times(number) for number in range(4)] == ["never", "once", "twice", "3 times"]


def test_wording_no_message_leaves_the_number_to_its_reader() -> None:
    guilty = [
        f"{path.name}:{number}"
        for path in (PROJECT / "tasks_demo").rglob("*")
        if path.suffix in {".py", ".html"}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "(s)" in line
    ]
    assert guilty == []


def test_wording_of_an_error_is_its_first_line() -> None:
    assert [first_line(OSError(text)) for text in ("", "one", "one\ntwo")] == ["", "one", "one"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a\nb", "a\\nb"), ("\x1b[2J", "\\x1b[2J"), ("\0", "\\x00"), ("\u202eabc", "\\u202eabc"), ("größe ☃", "größe ☃")],
    ids=ascii,
)
def test_wording_spells_out_what_cannot_be_printed(text: str, expected: str) -> None:
    assert escaped(text) == expected
    assert shown(text) == expected


def test_wording_truncates_what_is_long_and_says_so() -> None:
    assert shown("x" * 11, most=10) == "xxxxxxxxxx… (11 characters in all)"
    assert shown("x" * 10, most=10) == "x" * 10
    assert len(shown("\x1b" * 1_000_000)) < 2100
