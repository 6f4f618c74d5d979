"""Records stop signals, so that a command can check for them between two steps.

A KeyboardInterrupt can be raised at any line, even in a destructor. Python ignores exceptions in destructors, so the Ctrl-C would
be lost (seen in ``AsyncResult.__del__``).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_signals(*, insist: bool = False) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in the yielded list, in order, instead of stopping the process.

    The caller must check the list. ``insist``: a second SIGINT raises KeyboardInterrupt, for callers with a step that may hang.
    """
    asked: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        # Take no lock here: the interrupted code may hold it.
        asked.append(number)
        if insist and asked.count(signal.SIGINT) > 1:
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
