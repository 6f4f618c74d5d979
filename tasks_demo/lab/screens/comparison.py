"""Two results side by side, cell by cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: What is compared: a heading, and how to say it of a cell.
HEAD = ("kills injected", "charges 0/1/2+", "lost", "twice", "recovery p50", "verdict")


@dataclass(frozen=True, slots=True)
class Pair:
    """One cell: what each run saw of it (empty: it had no such cell), and whether the verdicts differ."""

    pattern: str
    fault: str
    one: tuple[str, ...]
    other: tuple[str, ...]
    differs: bool


def compare(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Pair]:
    """Return a pair for each cell of either result, in the order of the first."""
    left, right = ({(cell["pattern"], _fault(cell)): cell for cell in result["cells"]} for result in (one, other))
    return [
        Pair(
            pattern,
            fault,
            _said(left.get((pattern, fault))),
            _said(right.get((pattern, fault))),
            _verdict(left.get((pattern, fault))) != _verdict(right.get((pattern, fault))),
        )
        for pattern, fault in dict.fromkeys([*left, *right])
    ]


def _fault(cell: Mapping[str, Any]) -> str:
    return str(cell["fault"]) + (f" @{cell['point']}" if cell["point"] else "")


def _verdict(cell: Mapping[str, Any] | None) -> str:
    return str(cell["observed"]) if cell else ""


def _said(cell: Mapping[str, Any] | None) -> tuple[str, ...]:
    if cell is None:
        return ("–",) * len(HEAD)
    recovery = cell["recovery_s"]["p50"]
    return (
        f"{cell['kills']['landed']}/{cell['kills']['planned']}",
        "/".join(str(cell["effects"][count]) for count in ("0", "1", "2+")),
        str(cell["lost"]),
        str(cell["duplicated"]),
        "–" if recovery is None else f"{recovery:.1f} s",
        _verdict(cell),
    )
