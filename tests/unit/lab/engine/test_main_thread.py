"""MainThread makes the calls of other threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks_demo.lab.engine.main_thread import MainThread
from tests.support import until


def test_main_thread_makes_the_calls_and_raises_their_errors_in_the_calling_thread() -> None:
    main_thread = MainThread()
    with ThreadPoolExecutor(2) as pool:
        name = pool.submit(main_thread.call, lambda: threading.current_thread().name)
        wrong = pool.submit(main_thread.call, lambda: 1 / 0)

        def ended() -> bool:
            main_thread.run_pending()
            return name.done() and wrong.done()

        until(ended, "both calls")
    assert name.result() == threading.current_thread().name
    with pytest.raises(ZeroDivisionError):
        wrong.result()
