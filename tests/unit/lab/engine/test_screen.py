"""Progress of an experiment where stderr is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tasks_demo.lab.engine import screen
from tasks_demo.lab.engine.lane import Progress
from tasks_demo.lab.engine.screen import Screen
from tasks_demo.lab.plan.cells import Cell
from tasks_demo.lab.plan.faults import Fault


@pytest.fixture
def cells() -> list[Cell]:
    return [
        Cell("acks_late", Fault.KILL_MAIN, "fetched", "redis", 1, 4, 0),
        Cell("inbox", Fault.NONE, "", "redis", 1, 4, 0),
    ]


def shown(cells: list[Cell], *, quiet: bool = False) -> list[str]:
    out = io.StringIO()
    with Screen(cells, quiet=quiet, console=Console(file=out, width=200)) as lines:
        lines.show(Progress(cells[0], "running", left=3, injected=2))
        lines.show(Progress(cells[0], "done", left=0, injected=4))
        lines.show(Progress(cells[1], "unknown", left=1))
    return out.getvalue().splitlines()


def test_screen_says_now_and_then_how_far_the_run_is(cells: list[Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "LINE_SECONDS", 0.0)
    assert shown(cells) == [
        "0 of 2 cells done, 2 faults injected, 0 s",
        "1 of 2 cells done, 4 faults injected, 0 s",
        "2 of 2 cells done, 1 of them unknown, 4 faults injected, 0 s",
    ]


def test_screen_leaves_time_between_its_lines_and_says_nothing_if_asked(cells: list[Cell]) -> None:
    assert shown(cells) == ["0 of 2 cells done, 2 faults injected, 0 s"]
    assert shown(cells, quiet=True) == []
