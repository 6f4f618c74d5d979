"""Progress of an experiment on stderr: in a terminal one line per cell, redrawn; in a pipe or a file a line now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tasks_demo.core.wording import counted
from tasks_demo.lab.engine.lane import Progress as CellProgress
from tasks_demo.lab.plan.cells import Cell

#: Minimum time between two lines that say how far the run is, seconds.
LINE_SECONDS = 15.0
_ENDED = ("done", "unknown")


class Screen:
    """Shows what the lanes report. ``quiet``: prints only the lines of ``say``."""

    def __init__(self, cells: Sequence[Cell], *, quiet: bool, console: Console) -> None:
        live = not quiet and console.file.isatty()
        self._console = console
        self._lines = not quiet and not live
        self._ended: dict[str, bool] = {}  # by cell: whether it is unknown
        self._kills = dict.fromkeys((cell.name for cell in cells), 0)
        self._began = self._next = time.monotonic()
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
            self._progress.update(bar, completed=done, state=seen.state, kills=_kills(seen.cell, seen.injected))
            self._kills[seen.cell.name] = seen.injected
            if seen.state in _ENDED:
                self._progress.stop_task(bar)
                self._ended[seen.cell.name] = seen.state == "unknown"
            if self._lines and time.monotonic() >= self._next:
                self._next = time.monotonic() + LINE_SECONDS
                self.say(self._so_far())

    def _so_far(self) -> str:
        """Return how far the run is. Not how long the rest takes: cells differ by a factor of twenty."""
        unknown = sum(self._ended.values())
        return (
            f"{len(self._ended)} of {counted(len(self._bars), 'cell')} done{f', {unknown} of them unknown' if unknown else ''}, "
            f"{counted(sum(self._kills.values()), 'fault')} injected, {time.monotonic() - self._began:.0f} s"
        )


def _kills(cell: Cell, injected: int) -> str:
    return f"{injected:>3}/{len(cell.victims)} kills" if cell.victims else "   no kills"
