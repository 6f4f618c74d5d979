"""Being asked to stop: noted, and looked at where nothing is half done.

A KeyboardInterrupt may come at any line, also in a destructor, and Python ignores what a destructor raises: the Ctrl-C
would be lost (seen in ``AsyncResult.__del__``).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_signals(*, insist: bool = False) -> Iterator[list[int]]:
    """The SIGINT and SIGTERM that have come so far, in order. ``insist``: a second SIGINT raises KeyboardInterrupt, for
    callers with a step that may take for ever."""
    asked: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        # Only this: a lock taken here may be held by the very code that was interrupted.
        asked.append(number)
        if insist and asked.count(signal.SIGINT) > 1:
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
