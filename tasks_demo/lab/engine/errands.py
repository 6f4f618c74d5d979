"""Work that a lane's thread needs done in the main thread: a process ends when the thread that started it ends."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
#: Maximum time to wait for an errand, seconds.
ERRAND_SECONDS = 60.0


class Errands:
    """``ask`` from any thread; ``run`` in the main thread, again and again."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()

    def ask(self, work: Callable[[], T]) -> T:
        """Have the work done, and return what it returns or raise what it raises. Raises TimeoutError if nobody does it."""
        done: Future[T] = Future()
        self._waiting.put((work, done))
        return done.result(ERRAND_SECONDS)

    def run(self) -> None:
        """Do what has been asked for."""
        while True:
            try:
                work, done = self._waiting.get_nowait()
            except Empty:
                return
            try:
                done.set_result(work())
            except Exception as error:  # noqa: BLE001  (it belongs to whoever asked)
                done.set_exception(error)
