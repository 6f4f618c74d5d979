"""The lives of single jobs, taken out of a history, as moments that can be drawn. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tasks_demo.dashboard.swimlanes import Drawing, Moment, draw
from tasks_demo.lab.verdict.history import HistoryEvent

#: What is said of each kind of example of a cell.
_SAID = {"lost": "Lost", "duplicated": "Done twice or more", "killed": "Killed"}


@dataclass(frozen=True, slots=True)
class Life:
    """One job of a cell. ``what``: why it is shown."""

    what: str
    name: str
    drawing: Drawing


def life(events: Iterable[HistoryEvent], names: Collection[str]) -> tuple[Moment, ...]:
    """The moments of the job with these names (its task ID and its operation), in the order of time and cause."""
    mine = sorted(
        (each for each in events if each.task_id in names or each.operation in names),
        # A publisher notes its publication after the broker has it, so a worker can be earlier.
        key=lambda each: (each.kind != "published", each.at, each.seq),
    )
    start = min((each.at for each in mine), default=0.0)
    return tuple(_moment(each, start) for each in mine)


def examples(events: Iterable[HistoryEvent], result: Mapping[str, Any]) -> dict[int, list[Life]]:
    """The lives of the jobs that the cells of a result name as examples, by the number of the cell."""
    kept: dict[tuple[str, ...], dict[str, list[HistoryEvent]]] = {
        _key(cell): {name: [] for names in cell["examples"].values() for name in names} for cell in result["cells"]
    }
    for event in events:
        wanted = kept.get((event.pattern, event.fault, event.point, event.broker))
        if wanted:
            mine = wanted.get(event.operation)
            if mine is None:
                mine = wanted.get(event.task_id)
            if mine is not None:
                mine.append(event)
    return {
        number: [
            Life(_SAID[what], name, _drawn(kept[_key(cell)][name], name, f"cell-{number}-{what}-{place}"))
            for what, names in cell["examples"].items()
            for place, name in enumerate(names)
            if kept[_key(cell)][name]
            and not (what == "killed" and name in {*cell["examples"]["lost"], *cell["examples"]["duplicated"]})
        ]
        for number, cell in enumerate(result["cells"])
    }


def _drawn(events: list[HistoryEvent], name: str, element: str) -> Drawing:
    names = {name, *(event.operation for event in events), *(event.task_id for event in events)} - {""}
    return draw(life(events, names), element, f"The life of {name[:80]}")


def _key(cell: Mapping[str, Any]) -> tuple[str, ...]:
    return cell["pattern"], cell["fault"], cell["point"], cell["broker"]


def _moment(event: HistoryEvent, start: float) -> Moment:
    detail = event.detail
    return Moment(
        after_ms=round((event.at - start) * 1000, 2),
        kind=event.kind,
        worker=event.worker.partition("@")[0],
        pid=event.pid,
        redelivered=bool(detail.get("redelivered")),
        injected=event.kind == "fault" and detail.get("landed") is True,
        victim=str(detail.get("victim", "")),
        point=str(detail.get("point", "")) if event.kind == "fault" else "",
        main_pid=detail.get("main_pid"),
        child_pid=detail.get("child_pid"),
    )
