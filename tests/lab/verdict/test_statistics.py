"""The bound and the percentiles, compared with exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_demo.lab.verdict.statistics import percentile, rate_interval, upper_bound


def at_most(violations: int, trials: int, rate: float) -> Fraction:
    """P(at most this many violations), exactly."""
    p = Fraction(rate)
    return sum((comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(violations + 1)), Fraction(0))


@given(data=st.data(), trials=st.integers(1, 60))
def test_upper_bound_is_the_rate_at_which_so_few_are_seen_one_time_in_twenty(data: st.DataObject, trials: int) -> None:
    violations = data.draw(st.integers(0, trials - 1))
    bound = upper_bound(violations, trials)
    assert float(at_most(violations, trials, bound)) == pytest.approx(0.05, abs=1e-9)


@pytest.mark.parametrize("trials", [1, 10, 100, 12_000, 1_000_000])
def test_upper_bound_of_nothing_in_n_is_about_three_over_n(trials: int) -> None:
    assert upper_bound(0, trials) == pytest.approx(1 - 0.05 ** (1 / trials), rel=1e-6)


def test_statistics_known_values() -> None:
    # Published tables of the exact binomial limit.
    assert upper_bound(0, 30) == pytest.approx(0.0950, abs=5e-5)
    assert upper_bound(1, 20) == pytest.approx(0.2161, abs=5e-5)
    assert upper_bound(28, 12_000) == pytest.approx(0.0032, abs=5e-5)
    assert upper_bound(500_000, 1_000_000) == pytest.approx(0.500823, abs=1e-6)


def test_upper_bound_without_trials_is_one() -> None:
    assert upper_bound(0, 0) == 1.0
    assert upper_bound(5, 5) == 1.0


@pytest.mark.parametrize(
    ("events", "trials", "low", "high"), [(0, 500, 0.0, 0.00738), (10, 1, 4.795, 18.39), (17, 100, 0.099, 0.272)]
)
def test_rate_interval_has_the_values_of_the_tables(events: int, trials: int, low: float, high: float) -> None:
    assert rate_interval(events, trials) == pytest.approx((low, high), rel=2e-3)


def test_rate_interval_without_a_trial_is_refused() -> None:
    with pytest.raises(ValueError, match="not a count"):
        rate_interval(0, 0)


@pytest.mark.parametrize("numbers", [(-1, 5), (0, -1)])
def test_bounds_refuse_a_value_that_is_not_a_count(numbers: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="not a count"):
        upper_bound(*numbers)


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1.0), (1, 1.0), (50, 2.0), (51, 3.0), (75, 3.0), (76, 4.0), (99, 4.0), (100, 4.0)]
)
def test_percentile_is_one_of_the_values(percent: float, expected: float) -> None:
    assert percentile([3.0, 1.0, 4.0, 2.0], percent) == expected


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], -1), ([1.0], 101)])
def test_percentile_of_nothing_is_none(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match="no percentile"):
        percentile(values, percent)
