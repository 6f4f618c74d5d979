"""Draws the history of one job as swimlanes: moments in, shapes out. ``admin/tasks_demo/swimlanes.html`` renders the shapes.

Pure. Texts are untrusted: the template escapes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from tasks_demo.core.wording import counted, shown
from tasks_demo.dashboard.lanes import Lane, Lanes, Moment
from tasks_demo.dashboard.time_scale import Fold, Scale

__all__ = ["Drawing", "Moment", "draw", "duration"]
#: Maximum number of moments that are drawn.
MOST_MOMENTS = 150
WIDTH, LEFT, RIGHT = 1040.0, 150.0, 960.0
_TOP, _LABELS, _LEVEL = 22.0, 30.0, 14.0
_PER_CHARACTER = 6.7


@dataclass(frozen=True, slots=True)
class Drawing:
    """What the template renders. ``name`` makes its element IDs unique on a page. ``truncated``: moments are missing."""

    name: str
    title: str
    description: str
    width: float
    height: float
    lanes: list[Lane]
    folds: list[tuple[Fold, str]]
    truncated: bool


def duration(milliseconds: float) -> str:
    """Format a duration: ``0.4 ms``, ``640 ms``, ``4.7 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms" if milliseconds >= 10 or not milliseconds else f"{milliseconds:.1f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def draw(moments: Iterable[Moment], name: str = "swimlanes", title: str = "The life of this job") -> Drawing:
    """Draw the moments, which are in the order of time and cause. At most MOST_MOMENTS are drawn."""
    known = list(islice(moments, MOST_MOMENTS + 1))
    truncated, known = len(known) > MOST_MOMENTS, known[:MOST_MOMENTS]
    lanes = Lanes(known)
    scale = Scale((moment.after_ms for moment in known), LEFT, RIGHT)
    y = _TOP
    for lane in lanes.shown():
        lane.y = y
        lane.height = _place(lane, scale)
        y += lane.height
    for key, began, ended in lanes.dead_times():
        x = scale.x(began)
        lanes.by_key[key].dead.append((x, (WIDTH if ended is None else scale.x(ended)) - x))
    return Drawing(
        name=name,
        title=title,
        description=_described(known, lanes, truncated=truncated),
        width=WIDTH,
        height=y + 4,
        lanes=lanes.shown(),
        folds=[(fold, duration(fold.lasted_ms)) for fold in scale.folds],
        truncated=truncated or lanes.left_out > 0,
    )


def _place(lane: Lane, scale: Scale) -> float:
    """Set the coordinates of a lane's bars and marks. Labels that would overlap go one level down. Returns its height."""
    for bar in lane.bars:
        bar.x, bar.y = scale.x(bar.begins), lane.middle - 6
        bar.width = max((WIDTH if bar.ends is None else scale.x(bar.ends)) - bar.x, 2)
    taken: list[list[tuple[float, float]]] = []
    for mark in lane.marks:
        mark.x, mark.y = scale.x(mark.moment.after_ms), lane.middle
        long = len(mark.text) * _PER_CHARACTER
        mark.anchor = "end" if mark.x + long + 4 > WIDTH else "start"
        begins = mark.x - long - 3 if mark.anchor == "end" else mark.x + 3
        mark.text_x = mark.x - 3 if mark.anchor == "end" else begins
        free = (
            n
            for n, row in enumerate(taken)
            if all(begins > right + 8 or begins + long + 8 < left for left, right in row)
        )
        level = next(free, len(taken))
        if level == len(taken):
            taken.append([])
        taken[level].append((begins, begins + long))
        mark.text_y = lane.y + _LABELS + 6 + level * _LEVEL
    return _LABELS + 12 + max(len(taken), 1) * _LEVEL


def _described(moments: Sequence[Moment], lanes: Lanes, *, truncated: bool) -> str:
    """The drawing in words, for a reader who cannot see it. The table below it has every event."""
    if not moments:
        return "No events."
    kinds = [moment.kind for moment in moments]
    parts = [
        f"{counted(len(kinds), 'event')} in {duration(moments[-1].after_ms - moments[0].after_ms)} on "
        f"{counted(len(lanes.by_key), 'lane')}: {counted(kinds.count('received'), 'delivery', 'deliveries')}, "
        f"{counted(kinds.count('started'), 'execution')}, {counted(kinds.count('effect'), 'effect')}"
    ]
    parts += [
        f"killed at {shown(moment.point, 30)} after {duration(moment.after_ms)}"
        for moment in moments
        if moment.injected
    ]
    unended = sum(bar.state == "open" for lane in lanes.by_key.values() for bar in lane.bars if bar.tone == "execution")
    if unended:
        parts.append(f"the end of {counted(unended, 'execution')} is not on record")
    return "; ".join(parts) + ("; later events are not drawn." if truncated else ".")
