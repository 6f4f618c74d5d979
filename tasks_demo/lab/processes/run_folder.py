"""The folder of a run below ``STATE_DIR/runs``: its name, and the lock by which others know whether its process lives."""

from __future__ import annotations

import fcntl
import os
import re
import time
from datetime import datetime
from pathlib import Path

from django.conf import settings

#: The name of a run's folder: when it began, its seed, its ID.
NAME = r"[0-9]{8}T[0-9]{6}-seed[0-9]{1,19}-[0-9a-f]{10}"
#: Files of a run's folder.
STATUS, RESULT, EVENTS, LOCK = "status.json", "result.json", "events.jsonl", "lock"
#: How often, every 10 ms, a lock is tried that a reader may hold for an instant.
_TRIES = 20


def runs_folder() -> Path:
    """Return the folder that holds the folders of all runs."""
    return Path(settings.STATE_DIR) / "runs"


def run_name(started_at: datetime, seed: int, run_id: str) -> str:
    """Return the name of a run's folder. Names sort by time."""
    return f"{started_at:%Y%m%dT%H%M%S}-seed{seed}-{run_id}"


def new_folder(name: str) -> Path:
    """Make the folder of a run, which may exist, and point the link ``latest`` at it."""
    folder = runs_folder() / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    latest = folder.with_name("latest")
    latest.unlink(missing_ok=True)
    latest.symlink_to(folder.name)
    return folder


def is_run_name(text: str) -> bool:
    """Whether this is the name of a run's folder: it contains no separator and no dot."""
    return re.fullmatch(NAME, text) is not None


def lock(folder: Path) -> int | None:
    """Lock the folder and return the descriptor, which holds the lock until every copy of it is closed.

    Returns None if another descriptor holds it; that may be one which this process inherited. Raises OSError.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    for _ in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            time.sleep(0.01)
    os.close(descriptor)
    return None


def is_alive(folder: Path) -> bool:
    """Whether a process holds the folder's lock. A process that has ended, however it died, holds none."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
