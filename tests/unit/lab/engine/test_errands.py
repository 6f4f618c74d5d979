"""Errands: a thread asks, the main thread does."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks_demo.lab.engine.errands import Errands
from tests.support import until


def test_errands_are_run_by_the_thread_that_runs_them_and_errors_go_to_whoever_asked() -> None:
    errands = Errands()
    with ThreadPoolExecutor(2) as pool:
        name = pool.submit(errands.ask, lambda: threading.current_thread().name)
        wrong = pool.submit(errands.ask, lambda: 1 / 0)

        def ended() -> bool:
            errands.run()
            return name.done() and wrong.done()

        until(ended, "both errands")
    assert name.result() == threading.current_thread().name
    with pytest.raises(ZeroDivisionError):
        wrong.result()
