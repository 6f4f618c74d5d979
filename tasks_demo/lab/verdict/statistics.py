"""An upper bound on a rate, and percentiles. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

_CONFIDENCE = 0.95
_TINY = 1e-300


def upper_bound(violations: int, trials: int) -> float:
    """The exact (Clopper-Pearson) one-sided upper bound, 95 %, on the rate behind ``violations`` in ``trials``.

    The largest rate at which so few violations would still be seen with a probability of 5 %: 0 in n gives
    about 3/n. Without a trial nothing is known: 1.0. It supposes that trials are independent, which kills of one
    worker after the other are only roughly. Raises ValueError on numbers that cannot be counts.
    """
    if violations < 0 or trials < 0:
        raise ValueError(f"{violations} in {trials} is not a count")
    if violations >= trials:
        return 1.0
    low, high = violations / trials, 1.0
    while True:
        middle = (low + high) / 2
        if not low < middle < high:
            return high
        # P(more than `violations` are seen), which grows with the rate.
        if regularised_beta(middle, violations + 1, trials - violations) < _CONFIDENCE:
            low = middle
        else:
            high = middle


def rate_interval(events: int, trials: int) -> tuple[float, float]:
    """The exact two-sided interval (Garwood), 95 %, for the number of events per trial, of which one trial may have several.

    0 in n gives 0 to about 3.7/n. It supposes that events come one by one: where one trial causes several, it is too narrow.
    Raises ValueError on numbers that cannot be counts, and without a trial.
    """
    if events < 0 or trials < 1:
        raise ValueError(f"{events} in {trials} is not a count")
    tail = (1 - _CONFIDENCE) / 2
    low = _mean_at(events - 1, 1 - tail) if events else 0.0
    return low / trials, _mean_at(events, tail) / trials


def _mean_at(most: int, probability: float) -> float:
    """The mean of a Poisson variable that is at most ``most`` with this probability."""
    low, high = 0.0, most + 10.0 + 10.0 * math.sqrt(most + 1.0)
    while True:
        middle = (low + high) / 2
        if not low < middle < high:
            return high
        if _at_most(most, middle) > probability:
            low = middle
        else:
            high = middle


def _at_most(most: int, mean: float) -> float:
    return math.fsum(math.exp(count * math.log(mean) - mean - math.lgamma(count + 1)) for count in range(most + 1))


def regularised_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), which is P(X >= a) for X binomial in a+b-1 trials at rate x. Good to about 1e-9 up to 10^6 trials."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - regularised_beta(1 - x, b, a)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(scale) * _continued_fraction(x, a, b) / a


def _continued_fraction(x: float, a: float, b: float) -> float:
    """Lentz's evaluation of the continued fraction of the incomplete beta function."""
    c, d = 1.0, 1 / (_clear(1 - (a + b) * x / (a + 1)))
    value = d
    for m in range(1, 100_000):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _clear(1 + step * d)
            c = _clear(1 + step / c)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _clear(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest value that at least ``percent`` % of them do not exceed.

    Always one of the values, never between two. Raises ValueError without values or outside 0–100.
    """
    if not values or not 0 <= percent <= 100:
        raise ValueError(f"no percentile {percent} of {len(values)} values")
    rank = math.ceil(percent * len(values) / 100)
    return sorted(values)[max(rank, 1) - 1]


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Median, 99th percentile and maximum; None without values."""
    if not values:
        return {"p50": None, "p99": None, "max": None}
    return {"p50": percentile(values, 50), "p99": percentile(values, 99), "max": max(values)}


def bars(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """How many values are at most each edge and above the one before, and how many are above the last."""
    counts = [0] * (len(edges) + 1)
    for value in values:
        counts[bisect_left(edges, value)] += 1
    return counts
