"""Reads the folders of runs: which there are, what became of each, and what it found."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks_demo.dashboard.labels import Badge
from tasks_demo.lab.processes.run_folder import RESULT, STATUS, is_alive, is_run_name, runs_folder
from tasks_demo.lab.screens.run_process import REQUEST

#: Runs on the list.
MOST_LISTED = 50
STATES: dict[str, Badge] = {
    "running": Badge("recovered", "▸", "running", "its process lives"),
    "stopped": Badge("unresolved", "⊘", "stopped", "somebody stopped it before its end"),
    "crashed": Badge("lost", "✗", "crashed", "its process has ended without a word: it was killed"),
    "not started": Badge("lost", "✗", "not run", "what it needs was not ready, or it failed"),
    "finished": Badge("ok", "✓", "finished", "all its cells have ended"),
}
#: Exit code of the command → what it means.
VERDICTS: dict[int, Badge] = {
    0: Badge("ok", "✓", "as predicted", "every promise held, or broke, as predicted"),
    1: Badge("broken", "✗", "not as predicted", "a promise broke, or a predicted violation did not show"),
    3: Badge("unresolved", "?", "unknown", "evidence is missing"),
}


@dataclass(frozen=True)
class StoredRun:
    """One run. ``alive`` was read before ``status``: if it is false, the status is final."""

    folder: Path
    alive: bool
    status: dict[str, Any]
    request: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def run_id(self) -> str:
        return self.name[-10:]

    @property
    def seed(self) -> int:
        return int(self.name.split("-")[1].removeprefix("seed"))

    @property
    def started_at(self) -> datetime:
        return datetime.strptime(self.name.split("-")[0], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)

    @property
    def duration(self) -> timedelta | None:
        """How long it ran; None while it runs, or if nothing tells."""
        try:
            ended = datetime.fromisoformat(self.status["ended_at"])
            return timedelta(seconds=round((ended - datetime.fromisoformat(self.status["started_at"])).total_seconds()))
        except (LookupError, TypeError, ValueError):
            return None

    @property
    def by(self) -> str:
        return str(self.request.get("by") or "(command line)")

    @property
    def started_here(self) -> bool:
        """Whether the page started it, and so may stop it."""
        return bool(self.request.get("process"))

    @property
    def command(self) -> str:
        """The command that runs the same plan; empty if only the result knows it."""
        return str(self.request.get("command", ""))

    @property
    def cells(self) -> list[dict[str, Any]]:
        found = self.status.get("cells", [])
        return found if isinstance(found, list) else []

    @cached_property
    def state(self) -> str:
        if self.alive:
            return "running"
        code = self.status.get("exit")
        if code is None:
            # A run of an earlier version left no status.
            return "finished" if not self.status and (self.folder / RESULT).exists() else "crashed"
        return "stopped" if code == 130 else "finished" if code in VERDICTS else "not started"

    @property
    def badge(self) -> Badge:
        return STATES[self.state]

    @property
    def verdict(self) -> Badge | None:
        return VERDICTS.get(self.status.get("exit", -1)) if self.state == "finished" else None

    @property
    def phase(self) -> str:
        return str(self.status.get("phase", "starting"))

    @property
    def patterns(self) -> list[str]:
        return list(dict.fromkeys(str(cell["pattern"]) for cell in self.cells))

    @property
    def faults(self) -> list[str]:
        return list(dict.fromkeys(str(cell["fault"]) for cell in self.cells))

    @property
    def done(self) -> int:
        return sum(cell["done"] for cell in self.cells)

    @property
    def jobs(self) -> int:
        return sum(cell["tasks"] for cell in self.cells)

    @property
    def injected(self) -> int:
        return sum(cell["landed"] for cell in self.cells)

    @cached_property
    def result(self) -> dict[str, Any] | None:
        """The result document; None if there is none."""
        found = _read(self.folder / RESULT)
        return found if found.get("schema") == "experiment/1" else None


def find(name: str) -> StoredRun | None:
    """Return the run of this name; None if there is none. The name may come from a browser."""
    folder = runs_folder() / name
    if not is_run_name(name) or folder.is_symlink() or not folder.is_dir():
        return None
    alive = is_alive(folder)  # before the status: see StoredRun
    return StoredRun(folder, alive, _read(folder / STATUS), _read(folder / REQUEST))


def latest(most: int = MOST_LISTED) -> tuple[list[StoredRun], bool]:
    """Return the latest runs, the newest first, and whether there are more. No folder: no runs. Raises OSError."""
    try:
        names = sorted((path.name for path in runs_folder().iterdir() if is_run_name(path.name)), reverse=True)
    except FileNotFoundError:
        return [], False
    return [found for name in names[:most] if (found := find(name))], len(names) > most


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
