"""The vocabulary: bounds, promises, and how they are written."""

from __future__ import annotations

import pytest

from tasks_demo.core.semantics import Bounds, Semantics


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        (Bounds(0, 1), [0, 1], [2, 100]),
        (Bounds(1, None), [1, 2, 10**9], [0]),
        (Bounds(1, 1), [1], [0, 2]),
        (Bounds(2, 4), [2, 3, 4], [1, 5]),
    ],
    ids=str,
)
def test_semantics_bounds_are_inclusive(bounds: Bounds, inside: list[int], outside: list[int]) -> None:
    assert [count for count in (*inside, *outside) if count in bounds] == inside


@pytest.mark.parametrize(
    ("bounds", "count", "exceeded"),
    [(Bounds(0, 1), 1, False), (Bounds(0, 1), 2, True), (Bounds(1, 1), 0, False), (Bounds(1, None), 10**9, False)],
)
def test_semantics_only_too_much_is_beyond_repair(bounds: Bounds, count: int, exceeded: bool) -> None:
    assert bounds.exceeded_by(count) is exceeded


@pytest.mark.parametrize(
    ("bounds", "text", "listed"),
    [
        (Bounds(0, 1), "≤1", [0, 1]),
        (Bounds(1, None), "≥1", [1, None]),
        (Bounds(1, 1), "=1", [1, 1]),
        (Bounds(2, 4), "2–4", [2, 4]),
    ],
)
def test_semantics_bounds_are_written_as_people_write_them(bounds: Bounds, text: str, listed: list[int | None]) -> None:
    assert str(bounds) == text
    assert bounds.as_list() == listed


def test_semantics_nobody_claims_exactly_once() -> None:
    assert all("exactly" not in semantics for semantics in Semantics)
