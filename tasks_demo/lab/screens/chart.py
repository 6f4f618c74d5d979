"""The jobs done in each second of a run, and the kills as bands over them: the numbers of an SVG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT, BASE = 720, 150, 130
MOST_BARS = 120


@dataclass(frozen=True, slots=True)
class Bar:
    """One slice of time: ``top`` and ``tall`` are the bar's place, ``kills`` the faults that were injected in it."""

    x: float
    width: float
    top: float
    tall: float
    kills: int
    at: float
    rate: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Everything that the template draws. ``peak``: jobs per second of the highest bar; ``seconds``: the width in time."""

    bars: list[Bar]
    peak: float
    seconds: float
    kills: int
    done: int

    width, height, base = WIDTH, HEIGHT, BASE


def chart(samples: list[list[Any]]) -> Chart | None:
    """Return the chart of these samples (seconds, jobs done, faults injected: both since the start); None without any."""
    if not samples:
        return None
    while len(samples) > MOST_BARS:
        samples = samples[1::2] if len(samples) % 2 == 0 else [*samples[1::2], samples[-1]]
    seconds = max(float(samples[-1][0]), 1.0)
    before: list[Any] = [0.0, 0, 0]
    slices = []
    for sample in samples:
        length = max(float(sample[0]) - float(before[0]), 0.001)
        # A job that is delivered again is not done any more.
        slices.append((float(before[0]), length, max(0, sample[1] - before[1]) / length, max(0, sample[2] - before[2])))
        before = sample
    peak = max(max(rate for _, _, rate, _ in slices), 1.0)
    bars = []
    for start, length, rate, kills in slices:
        tall = round((BASE - 10) * rate / peak, 1)
        x, width = round(WIDTH * start / seconds, 1), round(max(WIDTH * length / seconds, 0.5), 1)
        bars.append(Bar(x, width, round(BASE - tall, 1), tall, kills, round(start, 1), round(rate, 1)))
    return Chart(bars, round(peak, 1), round(seconds, 1), before[2], before[1])
