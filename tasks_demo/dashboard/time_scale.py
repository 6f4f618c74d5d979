"""Maps milliseconds to a drawing's x: to scale, with long gaps folded to one width. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

#: Width of a folded gap.
FOLD = 64.0
#: A gap is folded if it takes at least this share of the time that is not folded yet, and is this many times the median gap.
SHARE, MEDIANS = 0.3, 8
MOST_FOLDS = 8


@dataclass(frozen=True, slots=True)
class Fold:
    """One gap that is not drawn to scale: where it is drawn, and how long it lasted in milliseconds."""

    x: float
    width: float
    lasted_ms: float


class Scale:
    """Converts milliseconds to x, from ``left`` to ``right``. ``folds``: the gaps that are not to scale."""

    def __init__(self, moments: Iterable[float], left: float, right: float) -> None:
        self._times = sorted(set(moments)) or [0.0]
        gaps = [after - before for before, after in zip(self._times, self._times[1:], strict=False)]
        folded = _to_fold(gaps)
        rest = sum(gap for number, gap in enumerate(gaps) if number not in folded)
        per_ms = (right - left - FOLD * len(folded)) / rest if rest else 0.0
        self._xs = [left]
        self.folds: list[Fold] = []
        for number, gap in enumerate(gaps):
            width = FOLD if number in folded else gap * per_ms
            if number in folded:
                self.folds.append(Fold(self._xs[-1], width, gap))
            self._xs.append(self._xs[-1] + width)

    def x(self, after_ms: float) -> float:
        """Return where a moment is drawn. A moment outside the scale is drawn at its end."""
        at = bisect_right(self._times, after_ms) - 1
        if at < 0 or at + 1 >= len(self._times):
            return self._xs[max(at, 0)]
        share = (after_ms - self._times[at]) / (self._times[at + 1] - self._times[at])
        return self._xs[at] + share * (self._xs[at + 1] - self._xs[at])


def _to_fold(gaps: list[float]) -> set[int]:
    """Return the numbers of the gaps to fold, the longest first; the last gap is never the only one that is to scale."""
    folded: set[int] = set()
    rest, long = sum(gaps), MEDIANS * median(gaps or [0.0])
    for number in sorted(range(len(gaps)), key=lambda each: -gaps[each]):
        if len(folded) >= min(MOST_FOLDS, len(gaps) - 2) or gaps[number] < max(SHARE * rest, long):
            break
        folded.add(number)
        rest -= gaps[number]
    return folded
