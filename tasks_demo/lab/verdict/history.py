"""The history of a run: one event a line, in JSON, so that any program can check it.

Pure: msgspec, the standard library and the names of the points.

:func:`write` and :func:`read` are each other's inverse. Reading is strict, because a history is evidence: a line that is cut
off, is not JSON, lacks a field, holds a value of the wrong type, or breaks the numbering raises :class:`HistoryError`, and
nothing after it is read. Unknown fields are ignored. Whether the events contradict each other is decided in ``checker``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import IO, Any

import msgspec

from tasks_demo.core.points import Point

#: The points of a task's life, as text.
POINTS = frozenset(map(str, Point))
#: Kinds that are recorded by others: the bank's books, the nemesis, the runner (its workers, and the end).
WITNESSES = frozenset({"effect", "fault", "worker", "quiescent"})
KINDS = POINTS | WITNESSES

_TEXTS = ("pattern", "fault", "point", "broker", "kind", "task_id", "operation", "worker")
_FIELDS = frozenset({"seq", "at", *_TEXTS, "pid", "detail"})


class HistoryError(ValueError):
    """This is not a history: the message names the line and what is wrong with it."""


class HistoryEvent(msgspec.Struct, frozen=True, gc=False):
    """One thing that happened. ``at`` is seconds since the epoch on the clock of whoever saw it; order is by ``seq``.

    ``pattern``, ``fault``, ``point`` and ``broker`` name the cell of the experiment.
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


#: Bytes that are decoded at once, and events that are encoded at once: few enough for the processor's cache.
_BLOCK, _BATCH = 1 << 15, 128
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(HistoryEvent)


def write(events: Iterable[HistoryEvent], file: IO[bytes]) -> int:
    """Write events as JSON Lines, one object a line, in the order given. Returns the number written. Raises OSError."""
    written, events = 0, iter(events)
    while batch := list(islice(events, _BATCH)):
        file.write(_lines(batch))
        written += len(batch)
    return written


def _lines(events: list[HistoryEvent]) -> bytes:
    try:
        return _encoder.encode_lines(events)
    except UnicodeEncodeError:  # a lone surrogate, which UTF-8 has no room for and JSON's escapes do
        spelled = (json.dumps(msgspec.structs.asdict(event), allow_nan=False) for event in events)
        return "".join(f"{line}\n" for line in spelled).encode()


def read(file: IO[bytes]) -> Iterator[HistoryEvent]:
    """Return the events of an open binary file, one after the other. Raises HistoryError at the first line that is not evidence.

    msgspec is lenient where evidence must not be: of a field that is there twice it takes the last. So it decides only about
    blocks of lines that encode to themselves, as all lines of :func:`write` do; the strict parser decides about any other.
    """
    return chain.from_iterable(_blocks(file))


def _blocks(file: IO[bytes]) -> Iterator[Iterable[HistoryEvent]]:
    number = 0
    while block := file.read(_BLOCK) + file.readline():
        try:
            events = _decoder.decode_lines(block)
        except (ValueError, RecursionError):
            events = []
        if _is_canonical(events, number, block):
            yield events
            number += len(events)
        else:
            lines = list(io.BytesIO(block))
            yield (_event(line, number + place) for place, line in enumerate(lines, 1))
            number += len(lines)


def _is_canonical(events: list[HistoryEvent], before: int, block: bytes) -> bool:
    """Whether these are the events of the block, in the form in which ``write`` writes them, with the numbers that follow."""
    try:
        return (
            [event.seq for event in events] == list(range(before + 1, before + len(events) + 1))
            and {event.kind for event in events} <= KINDS
            and _encoder.encode_lines(events) == block
        )
    except UnicodeEncodeError:
        return False


def _event(line: bytes, number: int) -> HistoryEvent:
    try:
        return _parse(line.decode(), number)
    except UnicodeDecodeError as error:
        raise HistoryError(f"line {number}: not UTF-8 ({error.reason})") from error


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
