"""Calls that a lane's thread has the main thread make: a child process ends when the thread that started it ends."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
#: Maximum time to wait for the main thread, seconds.
CALL_SECONDS = 60.0


class MainThread:
    """``call`` from any thread; ``run_pending`` repeatedly in the main thread."""

    def __init__(self) -> None:
        self._pending: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()

    def call(self, function: Callable[[], T]) -> T:
        """Return what the function returns in the main thread, or raise what it raises.

        Raises TimeoutError if it has not ended after CALL_SECONDS.
        """
        result: Future[T] = Future()
        self._pending.put((function, result))
        return result.result(CALL_SECONDS)

    def run_pending(self) -> None:
        """Make the calls that are waiting."""
        while True:
            try:
                function, result = self._pending.get_nowait()
            except Empty:
                return
            try:
                result.set_result(function())
            except Exception as error:  # noqa: BLE001  (it belongs to the caller)
                result.set_exception(error)
