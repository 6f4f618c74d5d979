"""The result as one HTML file: a heat map of the cells, and for each its problems, its recovery times and lives of its jobs.

No script, nothing loaded from anywhere, light and dark. ``admin/tasks_demo_lab/report.html`` has the layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.template.loader import render_to_string

from tasks_demo.core.points import Point
from tasks_demo.dashboard.standalone import styles
from tasks_demo.lab.plan.combined import description
from tasks_demo.lab.reports.lives import Life
from tasks_demo.lab.reports.text import carriable, cell_name, in_short, reading, sentences
from tasks_demo.lab.verdict.checker import RECOVERY_EDGES

STYLES = ("tasks_demo/dashboard.css", "tasks_demo/swimlanes.css", "tasks_demo_lab/report.css")
_ORDER = ["", "mixed", *map(str, Point)]
_SECONDS = [*(f"≤ {edge:g} s" for edge in RECOVERY_EDGES), f"> {RECOVERY_EDGES[-1]:g} s"]
_ROW, _LONGEST, _LEFT = 18, 340, 70


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a histogram."""

    label: str
    count: int
    y: int
    width: float

    @property
    def end(self) -> float:
        """Where its number is written."""
        return _LEFT + self.width + 6


@dataclass(frozen=True, slots=True)
class Histogram:
    """Kills by time to recovery. ``label``: the whole in words."""

    label: str
    bars: list[Bar]
    height: int
    width: int = _LEFT + _LONGEST + 60
    left: int = _LEFT


@dataclass(frozen=True, slots=True)
class Square:
    """One cell on the heat map and in the list. ``share``: lost or repeated operations, percent, for the depth of its colour."""

    number: int
    name: str
    tone: str  # "ok", "allowed", "broken", "surprise", "unknown"
    text: str
    share: int
    summary: str
    cell: Mapping[str, Any]
    lives: Sequence[Life]
    recovery: Histogram | None

    @property
    def bound(self) -> str:
        """The upper bound on the rate of violations."""
        return f"{self.cell['bound_95']:.2%}"


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Patterns by faults and points, on one broker. ``faults``: each with its points."""

    broker: str
    faults: list[tuple[str, list[str]]]
    rows: list[tuple[str, list[Square | None]]]


def as_html(result: Mapping[str, Any], lives: Mapping[int, Sequence[Life]] | None = None) -> str:
    """The whole document. ``lives``: of ``lives.examples``; without them the cells show no timelines. Everything is escaped."""
    squares = [_square(number, cell, (lives or {}).get(number, ())) for number, cell in enumerate(result["cells"])]
    total = [sum(counts) for counts in zip(*(cell["recoveries"] for cell in result["cells"]), strict=True)]
    page = render_to_string(
        "admin/tasks_demo_lab/report.html",
        {
            "result": result,
            "style": styles(*STYLES),
            "summary": sentences(result)[-1],
            "command": result["configuration"].get("command") or "python manage.py experiment --replay RESULT.json",
            "versions": ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
            "maps": [_map(broker, squares) for broker in dict.fromkeys(cell["broker"] for cell in result["cells"])],
            "recovery": _histogram(total),
            "squares": squares,
            "fault_descriptions": [(fault, line) for fault in _faults(squares) if (line := description(fault))],
        },
    )
    return carriable(page)


def _square(number: int, cell: Mapping[str, Any], lives: Sequence[Life]) -> Square:
    total, wrong = sum(cell["effects"].values()), cell["lost"] + cell["duplicated"]
    if cell["observed"] == "unknown":
        tone, text = "unknown", "unknown"
    else:
        tone = "ok" if not wrong else "allowed" if cell["observed"] == "held" else "broken"
        tone, text = tone if cell["as_predicted"] else "surprise", in_short(cell)
    share = min(100, round(100 * wrong / total)) if total else 0
    return Square(
        number, cell_name(cell), tone, text, share, reading(cell), cell, lives, _histogram(cell["recoveries"])
    )


def _faults(squares: Iterable[Square]) -> list[str]:
    return list(dict.fromkeys(square.cell["fault"] for square in squares))


def _map(broker: str, squares: Sequence[Square]) -> HeatMap:
    mine = [square for square in squares if square.cell["broker"] == broker]
    at = {(square.cell["pattern"], square.cell["fault"], square.cell["point"]): square for square in mine}
    faults = [(fault, sorted({point for _, own, point in at if own == fault}, key=_place)) for fault in _faults(mine)]
    rows = [
        (pattern, [at.get((pattern, fault, point)) for fault, points in faults for point in points])
        for pattern in dict.fromkeys(square.cell["pattern"] for square in mine)
    ]
    return HeatMap(broker, faults, rows)


def _place(point: str) -> tuple[int, str]:
    return _ORDER.index(point) if point in _ORDER else len(_ORDER), point


def _histogram(counts: Sequence[int]) -> Histogram | None:
    """None without a recovery. The bars of the slowest and of all before it; those beyond are left out."""
    if not any(counts):
        return None
    last = max(place for place, count in enumerate(counts) if count)
    bars = [
        Bar(label, count, place * _ROW, round(_LONGEST * count / max(counts), 1))
        for place, (label, count) in enumerate(zip(_SECONDS, counts, strict=True))
        if place <= last
    ]
    label = ", ".join(f"{bar.count} {bar.label}" for bar in bars if bar.count)
    return Histogram(label, bars, len(bars) * _ROW)
