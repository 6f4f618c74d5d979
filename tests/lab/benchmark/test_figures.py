"""Figures of a benchmark: ratios, budgets and tables; and the clock of CPU times."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from io import StringIO

from rich.console import Console

from tasks_demo.benchmark.figures import SCHEMA, Budget, Figure, Series, render, trade_off
from tasks_demo.benchmark.workers import cpu_seconds


def test_cpu_seconds_see_less_than_a_tick_of_the_kernel() -> None:
    """A short measurement of 0 would have no ratio: 40 jobs cost a main process less than 10 ms."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE):
        main, pool = cpu_seconds(os.getpid())
        for _ in range(1000):
            pass
        later, _ = cpu_seconds(os.getpid())
        assert later > main
        assert pool > 0


def test_missed_budget_is_a_no_and_a_missing_measure_is_neither() -> None:
    slow, quick = Series("slow", "s", (2.0, 2.0, 9.0)), Series("quick", "s", (1.0, 2.0, 3.0))
    assert Figure("x", "x", slow, quick, Budget("≥ 2", "ratio", least=2.0)).ratios == (2.0, 1.0, 3.0)
    assert Figure("x", "x", slow, quick, Budget("≥ 2", "ratio", least=2.0)).within is True
    assert Figure("x", "x", slow, quick, Budget("≥ 2.1", "ratio", least=2.1)).within is False
    assert Figure("x", "x", slow, budget=Budget("≤ 1.9", "a", most=1.9)).within is False
    assert Figure("x", "x", slow, budget=Budget("≤ 2", "a", most=2.0)).within is True
    missing = Figure("x", "x", budget=Budget("≥ 2", "ratio", least=2.0), why_not="install it")
    assert missing.within is None
    assert missing.as_dict()["not_measured"] == "install it"


def test_budget_on_p99_looks_at_the_worst_of_a_hundred_but_one() -> None:
    seconds = Series("x", "s", (*[0.1] * 98, 1.9, 5.0), events=True)
    budget = Budget("p99 ≤ 2 s", "p99", most=2.0)
    assert seconds.as_dict()["p99"] == 1.9
    assert Figure("x", "x", seconds, budget=budget).within is True
    fewer = Series("x", "s", seconds.values[1:], events=True)
    assert fewer.p99 == 5.0, "of fewer than a hundred it is the largest"
    assert Figure("x", "x", fewer, budget=budget).within is False
    assert "p99" not in Series("x", "s", (1.0,)).as_dict(), "rounds have no p99"


def test_trade_off_is_what_each_pattern_costs_against_acks_late() -> None:
    late, slow = (
        Series("acks_late", "tasks/s", (400.0, 500.0, 200.0)),
        Series("inbox", "tasks/s", (200.0, 300.0, 200.0)),
    )
    cpu = Series("inbox", "ms", (3.0, 3.0, 3.0)), Series("acks_late", "ms", (2.0, 1.5, 2.0))
    waits = Series("outbox", "ms", (250.0, 270.0, 260.0)), Series("direct", "ms", (5.0, 6.0, 4.0))
    figures = [
        Figure("inbox", "x", slow, late, pattern="inbox"),
        Figure("inbox_cpu", "x", *cpu, pattern="inbox"),
        Figure("outbox", "x", slow, late, pattern="outbox"),
        Figure("latency", "x", *waits),
    ]
    acks_late, inbox, outbox = trade_off(figures)
    assert (acks_late["pattern"], acks_late["per_second"]["median"], acks_late["relative"]) == (
        "acks_late",
        400.0,
        None,
    )
    assert (acks_late["cpu_ms"]["median"], acks_late["delay_ms"]["median"]) == (2.0, 5.0)
    assert inbox["relative"]["values"] == [0.5, 0.6, 1.0]
    assert inbox["cpu_relative"]["values"] == [1.5, 2.0, 1.5]
    assert inbox["delay_ms"] is None, "its publisher's delay was measured with acks_late"
    assert (outbox["pattern"], outbox["delay_ms"]["median"], outbox["cpu_ms"]) == ("outbox", 260.0, None)
    assert trade_off([Figure("point", "x", slow, late), figures[-1]]) == []


def test_table_of_patterns_is_printed_once_and_budgets_stay_in_the_first() -> None:
    one, two = Series("inbox", "tasks/s", (1.0,)), Series("acks_late", "tasks/s", (2.0,))
    found = [
        Figure("inbox", "only below", one, two, pattern="inbox"),
        Figure("dedup_lock", "above too", one, two, Budget("≥ 0.4", "ratio", least=0.4), pattern="dedup_lock"),
        Figure("recovery", "killed", Series("acks_late", "s", (0.1, 0.3, 0.2), events=True)),
    ]
    document = {
        "schema": SCHEMA, "rounds": 1, "campaigns": 1, "cores": 2, "duration_s": 1.0, "load": 0.0,
        "figures": [figure.as_dict() for figure in found], "trade_off": trade_off(found),
    }  # fmt: skip
    console = Console(file=StringIO(), width=240)
    render(console, document)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "only below" not in shown
    assert "above too" in shown
    assert "p50 0.20, p95 0.30, p99 0.30, max 0.30 s (n = 3)" in shown
    assert re.search(r"inbox +1\.00 \(1\.00–1\.00\) +0\.50", shown)
