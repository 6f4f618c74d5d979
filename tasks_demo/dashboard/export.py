"""CSV and JSON of all task IDs that the list's filters let through, streamed: memory holds one chunk, whatever the number."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any

from django.http import HttpResponseBase, StreamingHttpResponse

from tasks_demo.core import clock
from tasks_demo.dashboard.by_worker import workers_of
from tasks_demo.dashboard.keyset import Place, Tallies
from tasks_demo.ledger.models import Tally

#: Task IDs read at a time.
CHUNK = 1_000
COLUMNS = (
    "task_id", "task", "pattern", "operation", "run", "books", "outcome", "verdict", "broken", "publications", "deliveries",
    "executions", "effects", "suppressed", "deferred", "fenced", "failed", "faults", "first_at", "last_at", "worker",
)  # fmt: skip
FORMATS = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
#: A spreadsheet takes a cell that begins with one of these for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def response(tallies: Tallies, form: str) -> HttpResponseBase:
    """Return a download, latest first. Rows that are committed meanwhile may or may not be in it."""
    lines = _csv(tallies) if form == "csv" else _json(tallies)
    answer = StreamingHttpResponse(lines, content_type=FORMATS[form])
    answer["Content-Disposition"] = f'attachment; filename="task-ids.{form}"'
    answer["X-Content-Type-Options"] = "nosniff"
    return answer


def rows(tallies: Tallies) -> Iterator[dict[str, Any]]:
    """Yield a row per task ID, by keyset: no cursor stays open on the server, and no OFFSET grows."""
    ordered = tallies.order_by("-first_at", "task_id")
    place: Place | None = None
    while chunk := list((place.following(ordered, backward=False) if place else ordered)[:CHUNK]):
        workers = workers_of([tally.task_id for tally in chunk])
        for tally in chunk:
            yield _row(tally, workers.get(tally.task_id, ""))
        place = Place(0, chunk[-1].first_at, chunk[-1].task_id)


def _row(tally: Tally, worker: str) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(tally, name, worker) for name in COLUMNS}
    return row | {name: clock.aware(row[name]).isoformat() for name in ("first_at", "last_at")}


class _Echo:
    """Returns what is written to it."""

    def write(self, line: str) -> str:
        return line


def _csv(tallies: Tallies) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield writer.writerow(COLUMNS)
    for row in rows(tallies):
        yield writer.writerow([_cell(value) for value in row.values()])


def _cell(value: Any) -> Any:
    """Return a cell that no spreadsheet runs: text that begins like a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _json(tallies: Tallies) -> Iterator[str]:
    separator = "[\n"
    for row in rows(tallies):
        yield separator + json.dumps(row)
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"
