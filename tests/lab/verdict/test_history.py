"""The history file: reading returns what was written, and lines that are not evidence are rejected by line number."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_demo.lab.verdict import history
from tasks_demo.lab.verdict.history import HistoryError, HistoryEvent, read
from tests.lab.verdict.histories import Story, line, text

words = st.text(max_size=20)
plain = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_characters='"\\'), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
events = st.builds(
    HistoryEvent,
    seq=st.just(1),
    at=st.floats(min_value=0, max_value=1e12),
    pattern=words | plain,
    fault=words | plain,
    point=words | plain,
    broker=words | plain,
    kind=st.sampled_from(sorted(history.KINDS)),
    task_id=words | plain,
    operation=words | plain,
    worker=words | plain,
    pid=st.none() | st.integers(),
    detail=st.dictionaries(words, json_values, max_size=3),
)


def read_text(written: str) -> list[HistoryEvent]:
    return list(read(io.BytesIO(written.encode())))


@given(event=events)
def test_history_is_read_as_it_was_written(event: HistoryEvent) -> None:
    assert read_text(text([event])) == [event]


def outcome(parse: Callable[[], list[HistoryEvent]]) -> object:
    """The events, or the error message that rejects them."""
    try:
        return parse()
    except HistoryError as error:
        return str(error)


@given(event=events, data=st.data())
def test_read_decides_about_a_damaged_line_as_the_strict_parser_does(event: HistoryEvent, data: st.DataObject) -> None:
    written = text([event])
    where = data.draw(st.integers(0, len(written) - 1))
    other = data.draw(st.sampled_from(["", '"', "{", "}", ",", "0", "1", "x", "\x00", written[where]]))
    damaged = written[:where] + other + written[where + 1 :]
    assert outcome(lambda: read_text(damaged)) == outcome(lambda: [history._parse(damaged, 1)])


def test_history_other_spacing_and_further_fields_are_read_too() -> None:
    [event] = read_text(line(comment="mine"))
    assert event == Story().published("a").events[0]


def test_history_empty_file_has_no_events() -> None:
    assert read_text("") == []


def test_reading_streams() -> None:
    file = io.BytesIO(f"{line()}rubbish\n".encode())
    events = read(file)
    assert next(events).seq == 1
    with pytest.raises(HistoryError, match=r"^line 2: not JSON"):
        next(events)


@pytest.mark.parametrize("compact", [True, False])
def test_truncated_last_line_is_refused(compact: bool) -> None:
    whole = text(Story().published("a").end().events) if compact else line() + line(seq=2)
    for cut in range(len(whole.splitlines()[0]) + 2, len(whole)):
        with pytest.raises(HistoryError, match=r"^line 2: the line is cut off"):
            read_text(whole[:cut])


@pytest.mark.parametrize("field", list(json.loads(line())))
def test_history_needs_every_field(field: str) -> None:
    with pytest.raises(HistoryError, match=f"^line 1: no {field}$"):
        read_text(line(**{field: ...}))


NOT_TEXT: list[object] = [None, 1, []]
WRONG: list[tuple[str, object]] = [
    *((field, value) for field in history._TEXTS for value in NOT_TEXT),
    *(("seq", value) for value in [*NOT_TEXT[::2], "1", 1.0, True]),
    *(("at", value) for value in [*NOT_TEXT[::2], "1", True, 1e300]),
    *(("pid", value) for value in ["1", 1.0, False, []]),
    *(("detail", value) for value in [*NOT_TEXT, ""]),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_history_value_of_the_wrong_type_is_refused(field: str, value: object) -> None:
    spaced = line(**{field: value})
    compact = json.dumps(json.loads(spaced), separators=(",", ":")) + "\n"
    for written in (spaced, compact):
        with pytest.raises(HistoryError, match=f"^line 1: {field} is "):
            read_text(written)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_history_number_that_is_not_json_is_refused(number: str) -> None:
    with pytest.raises(HistoryError, match=f"^line 1: not JSON .{number}"):
        read_text(line(at=5).replace('"at": 5', f'"at": {number}'))


@pytest.mark.parametrize("rubbish", ["\n", "null\n", "[]\n", "{\n", "[" * 100_000 + "\n", '{"seq":1} {}\n'])
def test_line_that_is_not_an_object_is_refused(rubbish: str) -> None:
    with pytest.raises(HistoryError, match=r"^line 1: "):
        read_text(rubbish)


def test_field_that_is_there_twice_is_refused() -> None:
    with pytest.raises(HistoryError, match=r"^line 1: not JSON .a field is there twice"):
        read_text(line().replace('"pid"', '"kind": "started", "pid"'))


def compact(written: str) -> str:
    """The same line with the spacing of ``write``."""
    return json.dumps(json.loads(written), separators=(",", ":")) + "\n"


def test_history_unknown_kind_is_refused() -> None:
    for written in (line(kind="charged"), compact(line(kind="charged"))):
        with pytest.raises(HistoryError, match=r"^line 1: unknown kind 'charged'"):
            read_text(written)


@pytest.mark.parametrize("detail", ['{"x":NaN}', '{"x":1,"x":2}', '{"x":{"y":1,"y":1}}', "{]", '{"x":1}}'])
def test_detail_that_is_not_json_is_refused(detail: str) -> None:
    with pytest.raises(HistoryError, match=r"^line 1: not JSON"):
        read_text(compact(line(detail={})).replace("{}", detail))


@pytest.mark.parametrize("character", ["\x00", "\t", "\r", "\x1f"])
@pytest.mark.parametrize("field", ["pattern", "task_id"])
def test_control_character_that_is_not_escaped_is_refused(field: str, character: str) -> None:
    written = compact(line(**{field: "X"})).replace("X", character)
    with pytest.raises(HistoryError, match=r"^line 1: not JSON"):
        read_text(written)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((1, 3), "line 2: seq is 3 where 2 must follow: events are missing"),
        ((1, 2, 2), "line 3: seq is 2 where 3 must follow: a number is there again"),
        ((2,), "line 1: seq is 2 where 1 must follow: events are missing"),
        ((0,), "line 1: seq is 0 where 1 must follow: a number is there again"),
    ],
    ids=["dropped line", "duplicated line", "dropped first line", "from zero"],
)
def test_numbering_must_carry_on(numbers: tuple[int, ...], message: str) -> None:
    spaced = [line(seq=number) for number in numbers]
    compact = [json.dumps(json.loads(one), separators=(",", ":")) + "\n" for one in spaced]
    for lines in (spaced, compact):
        with pytest.raises(HistoryError) as raised:
            read_text("".join(lines))
        assert str(raised.value) == message


def test_bytes_that_are_not_utf8_are_refused() -> None:
    file = io.BytesIO(line().encode() + b"\xff\xfe\n")
    events = read(file)
    assert next(events).seq == 1
    with pytest.raises(HistoryError, match=r"^line 2: not UTF-8"):
        next(events)
