"""Live progress of an experiment on stderr: one line per cell. Off where stderr is no terminal."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tasks_demo.lab.engine.lane import Progress as CellProgress
from tasks_demo.lab.plan.cells import Cell


class Screen:
    """Shows what the lanes report. ``live`` False: prints only the lines of ``say``."""

    def __init__(self, cells: Sequence[Cell], *, live: bool, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description:<26}"),
            BarColumn(24),
            TextColumn("{task.completed:>6.0f}/{task.total:.0f} jobs"),
            TextColumn("{task.fields[kills]}"),
            TextColumn("[dim]{task.fields[state]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not live,
        )
        for cell in cells:
            self._bars[cell.name] = self._progress.add_task(
                cell.name, total=cell.tasks, start=False, state="waiting", kills=_kills(cell, 0)
            )

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print one line on stderr, live or not."""
        self._console.print(text, style="dim", highlight=False, soft_wrap=True)

    def show(self, seen: CellProgress) -> None:
        """Called by the lanes, from their threads."""
        with self._lock:
            bar = self._bars[seen.cell.name]
            self._progress.start_task(bar)
            done = max(0, seen.cell.tasks - seen.left)
            self._progress.update(bar, completed=done, state=seen.state, kills=_kills(seen.cell, seen.landed))
            if seen.state in ("done", "unknown"):
                self._progress.stop_task(bar)


def _kills(cell: Cell, landed: int) -> str:
    return f"{landed:>3}/{len(cell.victims)} kills" if cell.victims else "   no kills"
