"""What a run tells others while it runs: ``status.json`` in its folder, replaced atomically about twice a second.

It is for people who watch. Verdicts are in ``result.json``; ``exit`` is null until the run has ended.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from django.core.management.base import CommandError

from tasks_demo.core.exceptions import DeliveryError
from tasks_demo.lab.engine.lane import Progress
from tasks_demo.lab.plan.cells import Cell
from tasks_demo.lab.processes.run_folder import STATUS, lock
from tasks_demo.management.arguments import Exit

logger = logging.getLogger(__name__)

SCHEMA = "experiment-status/1"
WRITE_SECONDS = 0.5
#: With more samples than this, every second one is dropped and the pause between two is doubled.
MOST_SAMPLES = 600
#: States of a cell that has ended.
ENDED = ("done", "unknown")


class Status:
    """Writes the status of a run until it ends, also if it ends by an exception. Holds the lock of the folder meanwhile.

    A status that cannot be written is logged once; the run goes on.
    """

    def __init__(self, folder: Path, cells: Sequence[Cell], *, run_id: str, seed: int, started_at: datetime) -> None:
        self._path = folder / STATUS
        self._folder = folder
        self._began = time.monotonic()
        self._cells = {cell.name: _waiting(cell) for cell in cells}
        self._document: dict[str, Any] = {
            "schema": SCHEMA,
            "run": run_id,
            "seed": seed,
            "started_at": started_at.astimezone(UTC).isoformat(timespec="milliseconds"),
            "ended_at": None,
            "phase": "starting",
            "exit": None,
            "message": "",
            "cells": list(self._cells.values()),
            "sample_s": 1.0,
            "samples": [],
        }
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._lock: int | None = None
        self._failed = False

    def __enter__(self) -> Status:
        with contextlib.suppress(OSError):
            self._lock = lock(self._folder)
        self._write()
        self._thread = threading.Thread(target=self._keep_writing, name="status", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None and self._document["exit"] is None:
            code, message = _reason(error)
            self.ended(code, message)
        self._stop.set()
        self._thread.join()
        self._sample()
        self._write()
        if self._lock is not None:
            os.close(self._lock)

    def show(self, seen: Progress) -> None:
        """Called by the lanes, from their threads."""
        with self._guard:
            self._cells[seen.cell.name].update(
                state=seen.state,
                done=max(0, seen.cell.tasks - seen.left),
                landed=seen.injected,
                worker=seen.worker,
                pid=seen.pid,
                alive=seen.alive,
            )
            states = [cell["state"] for cell in self._cells.values()]
            self._document["phase"] = "checking" if all(state in ENDED for state in states) else "running"

    def ended(self, code: int, message: str = "") -> None:
        """Note the exit code, and what went wrong."""
        with self._guard:
            self._document.update(
                phase="ended",
                exit=int(code),
                message=message[:2000],
                ended_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            )

    def _keep_writing(self) -> None:
        sampled = self._began
        while not self._stop.wait(WRITE_SECONDS):
            if time.monotonic() - sampled >= self._document["sample_s"] - WRITE_SECONDS / 2:
                sampled = time.monotonic()
                self._sample()
            self._write()

    def _sample(self) -> None:
        with self._guard:
            done = sum(cell["done"] for cell in self._cells.values())
            injected = sum(cell["landed"] for cell in self._cells.values())
            samples = self._document["samples"]
            samples.append([round(time.monotonic() - self._began, 2), done, injected])
            if len(samples) > MOST_SAMPLES:
                del samples[::2]
                self._document["sample_s"] *= 2

    def _write(self) -> None:
        with self._guard:
            text = json.dumps(self._document)
        new = self._path.with_suffix(".new")
        try:
            new.write_text(text, encoding="utf-8")
            new.replace(self._path)
        except OSError as error:
            if not self._failed:
                logger.warning("%s cannot be written (%s): nobody can watch this run.", self._path, error.strerror)
            self._failed = True


def _waiting(cell: Cell) -> dict[str, Any]:
    return {
        "name": cell.name,
        "pattern": cell.pattern,
        "fault": str(cell.fault),
        "point": cell.point,
        "tasks": cell.tasks,
        "victims": len(cell.victims),
        "state": "waiting",
        "done": 0,
        "landed": 0,
        "worker": "",
        "pid": 0,
        "alive": False,
    }


def _reason(error: BaseException) -> tuple[int, str]:
    """The exit code that the command will have, and its sentence."""
    if isinstance(error, KeyboardInterrupt):
        return Exit.INTERRUPTED, "Interrupted before anything ran."
    if isinstance(error, CommandError):
        return error.returncode, str(error)
    if isinstance(error, DeliveryError):
        return Exit.NOT_READY, str(error)
    return Exit.INTERNAL, f"{type(error).__name__}: {error}"
