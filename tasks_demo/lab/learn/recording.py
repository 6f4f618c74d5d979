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
from tasks_demo.lab.reports.lives import life
from tasks_demo.lab.verdict.history import HistoryEvent

MAIN = "kill-main"
#: Faults beside the kill of a main process of which the page has one case for each pattern that was tried.
OTHER_FAULTS = ("kill-child", "lost-response", "poison")
FILE = Path(__file__).with_name("recorded.json.gz")


@dataclass(frozen=True, slots=True)
class Case:
    """What became of one job that a fault hit. ``effects``: what the books of the receiver say of its operation."""

    pattern: str
    fault: str
    point: str
    moments: tuple[Moment, ...]

    @property
    def name(self) -> str:
        """Its name, which is unique in a recording."""
        return f"{self.pattern}-{self.point if self.fault == MAIN else self.fault}"

    @property
    def executions(self) -> int:
        """How often its body was started."""
        return sum(moment.kind == "started" for moment in self.moments)

    @property
    def effects(self) -> int:
        """How often the customer was charged."""
        return sum(moment.kind == "effect" for moment in self.moments)

    @property
    def parked(self) -> bool:
        """Whether it ended in the quarantine: a person decides, so it is not lost."""
        return any(moment.kind == "quarantined" for moment in self.moments)


@dataclass(frozen=True, slots=True)
class Recording:
    """Cases, and how they were recorded: ``command``, ``recorded`` (the day) and ``versions``.

    ``others``: cases of OTHER_FAULTS, recorded with ``others_command``.
    """

    command: str
    recorded: str
    versions: dict[str, str]
    cases: tuple[Case, ...]
    others: tuple[Case, ...] = ()
    others_command: str = ""


def cases_of(events: Iterable[HistoryEvent]) -> list[Case]:
    """Return the case of each cell in which a kill of main was injected, in the order of the history."""
    cells: dict[tuple[str, str, str], list[HistoryEvent]] = {}
    for event in events:
        if event.fault == MAIN and event.point:
            cells.setdefault((event.pattern, event.fault, event.point), []).append(event)
    return [case for key, found in cells.items() if (case := _case(key, found))]


def others_of(events: Iterable[HistoryEvent]) -> list[Case]:
    """Return a case of each cell of OTHER_FAULTS: of a job that was hit after its effect, if there is one, else of the first."""
    cells: dict[tuple[str, str], list[HistoryEvent]] = {}
    for event in events:
        if event.fault in OTHER_FAULTS:
            cells.setdefault((event.pattern, event.fault), []).append(event)
    found = []
    for (pattern, fault), its in cells.items():
        injected = [event for event in its if event.kind == "fault" and event.detail.get("landed") is True]
        if hit := next(
            (each for each in injected if each.detail.get("point") == "effect_done"), next(iter(injected), None)
        ):
            found.append(_of_victim((pattern, fault, str(hit.detail.get("point", ""))), its, hit))
    return found


def _case(key: tuple[str, str, str], events: list[HistoryEvent]) -> Case | None:
    kill = next((event for event in events if event.kind == "fault" and event.detail.get("landed") is True), None)
    return None if kill is None else _of_victim(key, events, kill)


def _of_victim(key: tuple[str, str, str], events: list[HistoryEvent], hit: HistoryEvent) -> Case:
    return Case(*key, life(events, {hit.task_id, hit.operation or hit.task_id}))


#: The fields of a moment in the file; those at their default are left out.
_FIELDS = ("after_ms", "kind", "worker", "pid", "redelivered", "injected", "victim", "point", "main_pid", "child_pid")


def write(recording: Recording, file: Path = FILE) -> None:
    """Write the recording. The same recording gives the same bytes. Raises OSError."""
    document = {
        "command": recording.command,
        "recorded": recording.recorded,
        "versions": recording.versions,
        "cases": [_written(case) for case in recording.cases],
        "others": [_written(case) for case in recording.others],
        "others_command": recording.others_command,
    }
    file.write_bytes(gzip.compress(json.dumps(document, separators=(",", ":")).encode(), mtime=0))


def _written(case: Case) -> dict[str, Any]:
    moments = [
        {name: value for name in _FIELDS if (value := getattr(each, name)) not in (None, "", False)}
        for each in case.moments
    ]
    return {"pattern": case.pattern, "fault": case.fault, "point": case.point, "moments": moments}


@cache
def read(file: Path = FILE) -> Recording:
    """Read a recording; the same file is read once. Raises OSError, ValueError, KeyError."""
    document: dict[str, Any] = json.loads(gzip.decompress(file.read_bytes()))
    return Recording(
        document["command"],
        document["recorded"],
        document["versions"],
        tuple(map(_read, document["cases"])),
        tuple(map(_read, document.get("others", ()))),
        document.get("others_command", ""),
    )


def _read(case: dict[str, Any]) -> Case:
    moments = tuple(Moment(**{"after_ms": 0.0, **moment}) for moment in case["moments"])
    return Case(case["pattern"], case["fault"], case["point"], moments)
