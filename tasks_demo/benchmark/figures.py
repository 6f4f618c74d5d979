"""The figures of a benchmark: ratios of series that were measured alternately in one run; and their tables. Pure: the only I/O is
to the console.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tasks_demo.lab.verdict.statistics import percentile

SCHEMA = "benchmark/1"


@dataclass(frozen=True, slots=True)
class Series:
    """One quantity, measured once per round, or once per event with ``events``. Has at least one value."""

    name: str
    unit: str
    values: tuple[float, ...]
    events: bool = False

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def p95(self) -> float:
        """The 95th percentile by nearest rank."""
        return percentile(self.values, 95)

    @property
    def p99(self) -> float:
        """The 99th percentile by nearest rank: the largest of fewer than 100 values."""
        return percentile(self.values, 99)

    def as_dict(self) -> dict[str, Any]:
        """Return the series as JSON, with ``p95`` and ``p99`` if it is measured per event."""
        more = {"p95": self.p95, "p99": self.p99} if self.events else {}
        return {"name": self.name, "unit": self.unit, **_spread(self.values), **more}


@dataclass(frozen=True, slots=True)
class Budget:
    """A bound on the median of ``of`` ("a" or "ratio"), or on "p95" or "p99", percentiles of A."""

    text: str
    of: str
    least: float | None = None
    most: float | None = None

    def holds(self, value: float) -> bool:
        """Return whether ``value`` is within the inclusive bounds."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the result: A, often B, and the ratio A/B of each round.

    ``why_not``: why it was not measured; then A is None and ``within`` is None. ``pattern``: the pattern whose cost this is,
    compared with acks_late as B; then ``id`` is the pattern (its throughput), or the pattern followed by ``_cpu``.
    """

    id: str
    what: str
    a: Series | None = None
    b: Series | None = None
    budget: Budget | None = None
    why_not: str = ""
    pattern: str = ""

    @property
    def ratios(self) -> tuple[float, ...]:
        """A/B of each round. The two were measured in succession, on the same machine in the same state."""
        if self.a is None or self.b is None:
            return ()
        return tuple(a / b for a, b in zip(self.a.values, self.b.values, strict=True))

    @property
    def within(self) -> bool | None:
        """Whether the budget holds; None if there is none or nothing was measured."""
        if self.budget is None or self.a is None:
            return None
        return self.budget.holds(
            {"ratio": self._ratio, "p95": self.a.p95, "p99": self.a.p99, "a": self.a.median}[self.budget.of]
        )

    @property
    def _ratio(self) -> float:
        return median(self.ratios) if self.ratios else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the figure as JSON."""
        return {
            "id": self.id,
            "pattern": self.pattern or None,
            "what": self.what,
            "a": self.a.as_dict() if self.a else None,
            "b": self.b.as_dict() if self.b else None,
            "ratio": _spread(self.ratios) if self.ratios else None,
            "budget": self.budget.text if self.budget else None,
            "within": self.within,
            "not_measured": self.why_not or None,
        }


def trade_off(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """Return, as JSON, what each pattern costs relative to acks_late in the same rounds. Returns [] without pattern figures.

    ``cpu_ms``: CPU time of the worker's processes per job, without Redis and the relay. ``delay_ms``: time from publishing a job
    to its start on an idle worker. A pattern without its own delay has the delay of acks_late if its jobs are published directly,
    and that of outbox if they are published through the outbox.
    """
    known = {figure.id: figure for figure in figures if figure.a and figure.b}
    patterns = [figure.pattern for figure in figures if figure.id == figure.pattern and figure.id in known]
    if not patterns:
        return []
    first = patterns[0]
    latency = known.get("latency")

    def row(pattern: str, speed: Figure, cpu: Figure | None, delay: Series | None, side: str) -> dict[str, Any]:
        values = {"per_second": getattr(speed, side), "cpu_ms": cpu and getattr(cpu, side), "delay_ms": delay}
        spreads = {name: _spread(series.values) if series else None for name, series in values.items()}
        ratios = {"relative": speed, "cpu_relative": cpu} if side == "a" else {"relative": None, "cpu_relative": None}
        return {
            "pattern": pattern,
            **spreads,
            **{name: _spread(figure.ratios) if figure else None for name, figure in ratios.items()},
        }

    return [
        row("acks_late", known[first], known.get(f"{first}_cpu"), latency.b if latency else None, "b"),
        *(
            row(
                pattern,
                known[pattern],
                known.get(f"{pattern}_cpu"),
                latency.a if latency and pattern == "outbox" else None,
                "a",
            )
            for pattern in patterns
        ),
    ]


def render(console: Console, document: dict[str, Any]) -> None:
    """Print the tables. Their content can be read without colour."""
    table = Table(box=box.SIMPLE_HEAD, expand=False)
    for name in ("what", "A", "B", "ratio A/B", "budget", "within budget"):
        table.add_column(name, overflow="fold")
    for figure in document["figures"]:
        if figure["pattern"] and not figure["budget"]:
            continue  # shown in the table of patterns
        if figure["not_measured"]:
            table.add_row(
                figure["what"], f"not measured: {figure['not_measured']}", "", "", figure["budget"] or "–", "–"
            )
            continue
        table.add_row(
            figure["what"],
            _shown(figure["a"]),
            _shown(figure["b"]) if figure["b"] else "–",
            _range(figure["ratio"]) if figure["ratio"] else "–",
            figure["budget"] or "–",
            {True: "[green]yes[/]", False: "[red]no[/]", None: "–"}[figure["within"]],
        )
    console.print(table)
    if document["trade_off"]:
        console.print(_patterns(document["trade_off"]))
    console.print(
        f"Median (min–max) of {document['rounds']} rounds ({document['campaigns']} campaigns of kills), A and B in turns; "
        "ratios are taken pair by pair. "
        f"{document['cores']} cores, load {document['load']:.1f}, {document['duration_s']:.0f} s. "
        "Compare ratios, not speeds, between machines.",
        style="dim",
        highlight=False,
    )


def _patterns(rows: Sequence[dict[str, Any]]) -> Table:
    columns = {
        "per_second": "tasks/s",
        "relative": "relative to acks_late",
        "cpu_ms": "CPU ms per task",
        "cpu_relative": "relative to acks_late",
        "delay_ms": "published → started, ms",
    }
    table = Table(box=box.SIMPLE_HEAD, expand=False)
    for title in ("pattern, empty body", *columns.values()):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(row["pattern"], *(_range(row[name]) if row[name] else "–" for name in columns))
    return table


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {"median": median(values), "min": min(values), "max": max(values), "values": list(values)}


def _shown(series: dict[str, Any]) -> str:
    if "p99" in series:
        numbers = ", ".join(
            f"{name} {_number(series[of])}"
            for name, of in (("p50", "median"), ("p95", "p95"), ("p99", "p99"), ("max", "max"))
        )
        return f"{series['name']}: {numbers} {series['unit']} (n = {len(series['values'])})"
    return f"{series['name']}: {_range(series)} {series['unit']}".rstrip()


def _range(spread: dict[str, Any]) -> str:
    return f"{_number(spread['median'])} ({_number(spread['min'])}–{_number(spread['max'])})"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 10 else f"{value:.2f}"
