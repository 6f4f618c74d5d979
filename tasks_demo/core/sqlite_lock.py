"""Waits for SQLite's write lock in shorter steps than SQLite does. No other database needs it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any

#: Pause between two requests for the lock, seconds: the first, and the longest. Each is twice the one before.
FIRST_PAUSE, LONGEST_PAUSE = 0.0001, 0.0005


def retried(statement: Callable[[], Any], deadline: float, *, given_up: Callable[[], bool] = lambda: False) -> Any:
    """Run a statement, on a connection whose busy_timeout is 0, until it gets the lock. Returns what it returns.

    SQLite's own handler waits 1, 2, 5, 10 … ms, longer than a statement of ours holds the lock, so pool processes would sleep
    while the file is free. Raises the statement's error after ``deadline`` (monotonic seconds), or once ``given_up`` returns
    true, and every error that is not about the lock.
    """
    pause = FIRST_PAUSE
    while True:
        try:
            return statement()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline or given_up():
                raise
        time.sleep(pause)  # SQLite does not notify waiters
        pause = min(2 * pause, LONGEST_PAUSE)
