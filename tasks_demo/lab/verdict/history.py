"""The history of a run: one event a line, in JSON, so that any program can check it.

Pure: the standard library and the names of the points.

:func:`write` and :func:`read` are each other's inverse. Reading is strict, because a
history is evidence: a line that is cut off, is not JSON, misses a field, holds a value of the wrong type, or does not
carry on the numbering raises :class:`HistoryError`, and nothing after it is looked at. Fields that are not known here
are ignored. What is *not* checked here is whether the events can be true together: that is decided in ``checker``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

from tasks_demo.core.points import Point

#: The points of a task's life, as text.
POINTS = frozenset(map(str, Point))
#: Kinds that are recorded by others: the bank's books, the nemesis, the runner (its workers, and the end).
WITNESSES = frozenset({"effect", "fault", "worker", "quiescent"})
KINDS = POINTS | WITNESSES

_TEXTS = ("pattern", "fault", "point", "broker", "kind", "task_id", "operation", "worker")
_FIELDS = frozenset({"seq", "at", *_TEXTS, "pid", "detail"})
_MEMO_ENTRIES = 4096


class HistoryError(ValueError):
    """This is not a history: the message names the line and what is wrong with it."""


class HistoryEvent(NamedTuple):
    """One thing that happened. ``at`` is seconds since the epoch on the clock of whoever saw it; order is by ``seq``.

    ``pattern``, ``fault``, ``point`` and ``broker`` name the cell of the experiment. Do not change ``detail``: events
    may share it. (A named tuple, because a frozen dataclass takes three times as long to make.)
    """

    seq: int
    at: float
    pattern: str
    fault: str
    point: str
    broker: str
    kind: str
    task_id: str
    operation: str
    worker: str
    pid: int | None
    detail: dict[str, Any]


def write(events: Iterable[HistoryEvent], file: IO[str]) -> int:
    """Write events as JSON Lines, one object a line, in the order given. Returns how many. Raises OSError."""
    encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
    written = 0
    for event in events:
        file.write(encode(event._asdict()) + "\n")
        written += 1
    return written


def read(file: IO[str]) -> Iterator[HistoryEvent]:
    """The events of an open text file, one by one. Raises HistoryError at the first line that is not evidence."""
    quick = _Quick()
    number = 0
    try:
        for line in file:
            number += 1
            yield quick.parse(line, number) or _parse(line, number)
    except UnicodeDecodeError as error:
        raise HistoryError(f"after line {number}: the file is not UTF-8 ({error.reason})") from error


class _Quick:
    """Takes a line apart that is exactly as :func:`write` writes it; any other line is left to the JSON parser.

    The parser alone would be most of the time of checking a large history. What passes here is a subset of what
    passes there, with equal results: a test holds the two against each other.
    """

    # No escapes and no control characters: what stands between the quotes is then the value itself.
    _text = r'([^"\\\x00-\x1f]*)"'
    _cell = re.compile(rf'.*?,"pattern":"{_text},"fault":"{_text},"point":"{_text},"broker":"{_text},')
    _start = r'\{"seq":([1-9][0-9]{0,17}),"at":((?:0|[1-9][0-9]{0,14})\.[0-9]{1,17}),'
    _end = (
        rf'"kind":"([a-z_]+)","task_id":"{_text},"operation":"{_text},"worker":"{_text},'
        r'"pid":(null|0|-?[1-9][0-9]{0,17}),"detail":(\{.*\})\}\n'
    )

    def __init__(self) -> None:
        self._match = re.compile("(?!)").fullmatch  # of the cell that the line before was in; at first, of nothing
        self._names = ("", "", "", "")
        self._details: dict[str, dict[str, Any]] = {"{}": {}}
        self._decode = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_one_of_each).raw_decode

    def parse(self, line: str, number: int) -> HistoryEvent | None:
        match = self._match(line)
        if match is None:
            self._learn(line)
            match = self._match(line)
            if match is None:
                return None
        seq, at, kind, task_id, operation, worker, pid, detail_text = match.groups()
        if int(seq) != number or kind not in KINDS:
            return None
        detail = self._details.get(detail_text)
        if detail is None:
            detail = self._detail(detail_text)
            if detail is None:
                return None
        return _new(
            HistoryEvent,
            (
                number,
                float(at),
                *self._names,
                kind,
                task_id,
                operation,
                worker,
                None if pid == "null" else int(pid),
                detail,
            ),
        )

    def _learn(self, line: str) -> None:
        """Expect what this line says about its cell in the lines that follow."""
        cell = self._cell.match(line)
        if cell is not None:
            self._names = (cell[1], cell[2], cell[3], cell[4])
            pattern, fault, point, broker = map(re.escape, self._names)
            names = f'"pattern":"{pattern}","fault":"{fault}","point":"{point}","broker":"{broker}",'
            self._match = re.compile(self._start + names + self._end).fullmatch

    def _detail(self, text: str) -> dict[str, Any] | None:
        try:
            detail, end = self._decode(text)
        except (ValueError, RecursionError):
            return None
        if end != len(text) or not isinstance(detail, dict):
            return None
        # Details that come again and again, such as that of a publication, are parsed once.
        if len(text) <= 20 and len(self._details) < _MEMO_ENTRIES:
            self._details[text] = detail
        return detail


_new = tuple.__new__


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _one_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    return fields


def _parse(line: str, number: int) -> HistoryEvent:
    """The event of one line, or HistoryError with the line's number."""
    if not line.endswith("\n"):
        raise HistoryError(f"line {number}: the line is cut off; the history is not complete")
    try:
        fields = json.loads(line, parse_constant=_no_constant, object_pairs_hook=_one_of_each)
    except (ValueError, RecursionError) as error:
        raise HistoryError(f"line {number}: not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise HistoryError(f"line {number}: not a JSON object")
    missing = sorted(_FIELDS - fields.keys())
    if missing:
        raise HistoryError(f"line {number}: no {', '.join(missing)}")
    event = HistoryEvent(**{name: fields[name] for name in _FIELDS})
    try:
        checked(event, number)
    except HistoryError as error:
        raise HistoryError(f"line {number}: {error}") from None
    return event


def checked(event: HistoryEvent, seq: int) -> None:
    """Raise HistoryError unless the event has fields of the right types and the number ``seq``."""
    for name in _TEXTS:
        if not isinstance(getattr(event, name), str):
            raise HistoryError(f"{name} is {getattr(event, name)!r:.80}, not a string")
    if type(event.seq) is not int:
        raise HistoryError(f"seq is {event.seq!r:.80}, not an integer")
    if type(event.at) not in (int, float) or not abs(event.at) < 1e15:
        raise HistoryError(f"at is {event.at!r:.80}, not a time in seconds")
    if event.pid is not None and type(event.pid) is not int:
        raise HistoryError(f"pid is {event.pid!r:.80}, not an integer or null")
    if not isinstance(event.detail, dict):
        raise HistoryError(f"detail is {event.detail!r:.80}, not an object")
    if event.kind not in KINDS:
        raise HistoryError(f"unknown kind {event.kind!r:.80}")
    if event.seq != seq:
        what = "a number is there again" if event.seq < seq else "events are missing"
        raise HistoryError(f"seq is {event.seq} where {seq} must follow: {what}")
