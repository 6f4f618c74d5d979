"""The chart of a running experiment."""

from __future__ import annotations

from tasks_demo.lab.screens.chart import MOST_BARS, chart


def test_chart_of_many_samples_keeps_all_jobs_and_kills() -> None:
    drawn = chart([[float(second), 3 * second, second // 2] for second in range(1, 600)])
    assert drawn is not None
    assert len(drawn.bars) <= MOST_BARS
    assert (drawn.done, drawn.kills, drawn.seconds) == (3 * 599, 599 // 2, 599.0)
    assert sum(bar.kills for bar in drawn.bars) == drawn.kills
    assert chart([]) is None
