"""Recorded histories: takes the victim of each cell out of a history of the lab, stores them in one file, and reads it.

The file is gzipped JSON beside this module. ``manage.py learn --record`` writes it. Pure.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tasks_demo.dashboard.swimlanes import Moment
from tasks_demo.lab.verdict.history import HistoryEvent

FILE = Path(__file__).with_name("recorded.json.gz")


@dataclass(frozen=True, slots=True)
class Case:
    """What became of one job that was killed. ``effects``: what the books of the receiver say of its operation."""

    pattern: str
    fault: str
    point: str
    moments: tuple[Moment, ...]

    @property
    def name(self) -> str:
        """Its name, which is unique in a recording."""
        return f"{self.pattern}-{self.point}"

    @property
    def executions(self) -> int:
        """How often its body was started."""
        return sum(moment.kind == "started" for moment in self.moments)

    @property
    def effects(self) -> int:
        """How often the customer was charged."""
        return sum(moment.kind == "effect" for moment in self.moments)


@dataclass(frozen=True, slots=True)
class Recording:
    """Cases, and how they were recorded: ``command``, ``recorded`` (the day) and ``versions``."""

    command: str
    recorded: str
    versions: dict[str, str]
    cases: tuple[Case, ...]


def cases_of(events: Iterable[HistoryEvent]) -> list[Case]:
    """Return the case of each cell in which a kill of main landed, in the order of the history."""
    cells: dict[tuple[str, str, str], list[HistoryEvent]] = {}
    for event in events:
        if event.fault == "kill-main" and event.point:
            cells.setdefault((event.pattern, event.fault, event.point), []).append(event)
    return [case for key, found in cells.items() if (case := _case(key, found))]


def _case(key: tuple[str, str, str], events: list[HistoryEvent]) -> Case | None:
    kill = next((event for event in events if event.kind == "fault" and event.detail.get("landed") is True), None)
    if kill is None:
        return None
    operation = kill.operation or kill.task_id
    mine = sorted(
        (
            each
            for each in events
            if each.task_id == kill.task_id or (each.kind == "effect" and each.operation == operation)
        ),
        # A publisher notes its publication after the broker has it, so a worker can be earlier.
        key=lambda each: (each.kind != "published", each.at, each.seq),
    )
    start = min(each.at for each in mine)
    return Case(*key, tuple(_moment(each, start) for each in mine))


def _moment(event: HistoryEvent, start: float) -> Moment:
    detail = event.detail
    return Moment(
        after_ms=round((event.at - start) * 1000, 2),
        kind=event.kind,
        worker=event.worker.partition("@")[0],
        pid=event.pid,
        again=bool(detail.get("redelivered")),
        landed=event.kind == "fault" and detail.get("landed") is True,
        victim=str(detail.get("victim", "")),
        point=str(detail.get("point", "")) if event.kind == "fault" else "",
        main_pid=detail.get("main_pid"),
        child_pid=detail.get("child_pid"),
    )


#: The fields of a moment in the file; those at their default are left out.
_FIELDS = ("after_ms", "kind", "worker", "pid", "again", "landed", "victim", "point", "main_pid", "child_pid")


def write(recording: Recording, file: Path = FILE) -> None:
    """Write the recording. The same recording gives the same bytes. Raises OSError."""
    document = {
        "command": recording.command,
        "recorded": recording.recorded,
        "versions": recording.versions,
        "cases": [
            {
                "pattern": case.pattern,
                "fault": case.fault,
                "point": case.point,
                "moments": [
                    {name: value for name in _FIELDS if (value := getattr(each, name)) not in (None, "", False)}
                    for each in case.moments
                ],
            }
            for case in recording.cases
        ],
    }
    file.write_bytes(gzip.compress(json.dumps(document, separators=(",", ":")).encode(), mtime=0))


@cache
def read(file: Path = FILE) -> Recording:
    """Read a recording; the same file is read once. Raises OSError, ValueError, KeyError."""
    document: dict[str, Any] = json.loads(gzip.decompress(file.read_bytes()))
    return Recording(
        document["command"],
        document["recorded"],
        document["versions"],
        tuple(
            Case(
                case["pattern"],
                case["fault"],
                case["point"],
                tuple(Moment(**{"after_ms": 0.0, **moment}) for moment in case["moments"]),
            )
            for case in document["cases"]
        ),
    )
