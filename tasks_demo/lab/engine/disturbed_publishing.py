"""Disturbs the connection between a cell's publisher, or its relay, and the broker, while a job is published."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from tasks_demo.lab.engine.cell_run import CellRun
from tasks_demo.lab.processes.fault_report import FaultReport


class DisturbedPublishing:
    """The disturbed publications of a cell; does nothing in other cells. ``stop``: set when the run is interrupted."""

    def __init__(self, run: CellRun, stop: threading.Event) -> None:
        self._what, self._victims = str(run.cell.fault), run.victims
        self._proxy = run.proxy if run.cell.fault.disturbed_request == "publish" else None
        self._stop = stop

    @contextlib.contextmanager
    def publication(self, task_id: str) -> Iterator[Callable[[], FaultReport] | None]:
        """Disturb the publication that happens meanwhile, if it is of a victim: what is then yielded waits until the
        disturbance has ended, and returns the report."""
        proxy = self._proxy
        if proxy is None or task_id not in self._victims:
            yield None
            return

        def heal_in_time() -> FaultReport:
            proxy.wait_until_over(self._stop)
            why = proxy.heal()
            return FaultReport(what=self._what, victim="publisher", injected=not why, why=why)

        with proxy.lock, ThreadPoolExecutor(1, thread_name_prefix="healing") as pool:
            proxy.begin(task_id)
            yield pool.submit(heal_in_time).result
