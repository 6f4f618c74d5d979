"""Runs the cells of a plan in lanes, reads the books, writes the history, and has it checked."""

from __future__ import annotations

import contextlib
import logging
import platform
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kombu.exceptions
import redis
from django.conf import settings as django_settings
from django.db import DatabaseError, connections, router
from django.db.models import Count

from tasks_demo import ledger
from tasks_demo.core import lifecycle
from tasks_demo.core.exceptions import DeliveryError, EnvironmentNotReady
from tasks_demo.demo.bank.client import BankClient, BankError
from tasks_demo.demo.ledger_books import Bank, Bookings
from tasks_demo.demo.shop.models import Booking
from tasks_demo.lab.engine.cell_run import CellRun
from tasks_demo.lab.engine.lane import Lane, Progress
from tasks_demo.lab.engine.publishing import Stop
from tasks_demo.lab.plan.cells import WINDOWS, Cell
from tasks_demo.lab.plan.predictions import Prediction, prediction
from tasks_demo.lab.plan.timing import OUTBOX_SETTINGS, OVERLAPPING
from tasks_demo.lab.processes.brokers import without_password
from tasks_demo.lab.processes.environment import Environment, environment
from tasks_demo.lab.processes.run_folder import EVENTS, RESULT, run_name, runs_folder
from tasks_demo.lab.reports import document as report
from tasks_demo.lab.verdict import history
from tasks_demo.lab.verdict.checker import check
from tasks_demo.ledger import reading
from tasks_demo.ledger.events import SETTLED
from tasks_demo.ledger.models import IN_A_RUN, Event
from tasks_demo.ledger.recorder import recorder
from tasks_demo.ledger.settling import settle

logger = logging.getLogger(__name__)

#: Maximum time until a Ctrl-C is noticed, seconds.
SIGNAL_SECONDS = 0.2


@dataclass
class Outcome:
    """The result document of a run, its history file, and whether it was interrupted."""

    result: dict[str, Any]
    events: Path
    folder: Path
    interrupted: bool
    failure: DeliveryError | None = None


class Run:
    """One experiment. ``execute`` blocks; call it from the main thread."""

    def __init__(
        self,
        cells: Sequence[Cell],
        *,
        seed: int,
        broker: str,
        lanes: int,
        name: str = "",
    ) -> None:
        """``name``: of its folder, which may exist; empty: a new one."""
        self.cells = list(cells)
        self.seed = seed
        self.broker = broker
        self.lanes = max(1, min(lanes, len(self.cells)))
        self.started_at = datetime.now(UTC)
        name = name or run_name(self.started_at, seed, uuid.uuid4().hex[:10])
        self.run_id = name[-10:]
        self.folder = _folder(name)
        self._queue: deque[Cell] = deque()
        self._lock = threading.Lock()
        self._books = threading.Lock()
        self._stop = threading.Event()
        self._failures: list[Exception] = []
        self._watchers: tuple[Callable[[Progress], None], ...] = ()

    def execute(self, *watchers: Callable[[Progress], None]) -> Outcome:
        """Run every cell; ``watchers`` are told of its progress, from the threads of the lanes.

        Ctrl-C ends workers, Redis and bank, and keeps what was recorded until then.

        Raises EnvironmentNotReady if infrastructure is missing at the start; a later failure makes cells unknown.
        """
        started = time.monotonic()
        interrupted = False
        self._watchers = watchers
        # The lanes record publications themselves, with their outcome: Celery's signal would count them again.
        lifecycle.ignore(recorder)
        for name, value in OUTBOX_SETTINGS.items():
            setattr(django_settings, f"TASKS_DEMO_{name}", value)
        with contextlib.ExitStack() as armed_again, environment(self.folder, self.broker, self.run_id) as found:
            armed_again.callback(ledger.arm)
            alone = [cell for cell in self.cells if _needs_the_shop_to_itself(cell)]
            for cells, lanes in (([cell for cell in self.cells if cell not in alone], self.lanes), (alone, 1)):
                if not self._stop.is_set():
                    interrupted = self._side_by_side(cells, lanes, found)
        events = self.folder / EVENTS
        with events.open("w", encoding="utf-8") as file:
            history.write(self.history(), file)
        result = self._report(events, time.monotonic() - started)
        (self.folder / RESULT).write_text(report.as_json(result), encoding="utf-8")
        unforeseen = [failure for failure in self._failures if not isinstance(failure, DeliveryError)]
        if unforeseen:
            raise unforeseen[0]  # a defect; what was recorded until then is in the folder
        known = [failure for failure in self._failures if isinstance(failure, DeliveryError)]
        return Outcome(result, events, self.folder, interrupted, known[0] if known else None)

    def _side_by_side(self, cells: Sequence[Cell], lanes: int, environment: Environment) -> bool:
        """Run these cells; return whether the run was interrupted."""
        if not cells:
            return False
        self._queue = deque(cells)
        number = min(lanes, len(cells))
        with ThreadPoolExecutor(number, thread_name_prefix="lane") as pool:
            working = [pool.submit(self._work, environment) for _ in range(number)]
            try:
                # With a timeout: a signal that the kernel delivers to another thread does not wake a wait without one. And not
                # Thread.join, which considers a thread ended when it is interrupted (bpo-45274).
                while wait(working, SIGNAL_SECONDS).not_done:
                    pass
            except KeyboardInterrupt:
                self._stop.set()
                environment.template.close()
                return True
        return False

    def history(self) -> Iterator[history.HistoryEvent]:
        """Yield the whole history, cell by cell, in the order in which the ledger committed it."""
        number = 0
        for cell in self.cells:
            rows = Event.objects.filter(IN_A_RUN, run=f"{self.run_id}:{cell.name}").exclude(kind=SETTLED).order_by("id")
            for event in rows.iterator(chunk_size=2000):
                number += 1
                yield history.HistoryEvent(
                    seq=number,
                    at=event.at.timestamp(),
                    pattern=cell.pattern,
                    fault=str(cell.fault),
                    point=cell.point,
                    broker=cell.broker,
                    kind=event.kind,
                    task_id=event.task_id,
                    operation=event.operation,
                    worker=event.worker,
                    pid=event.pid,
                    detail=event.detail,
                )

    def _work(self, environment: Environment) -> None:
        try:
            while not self._stop.is_set():
                with self._lock:
                    if not self._queue:
                        return
                    cell = self._queue.popleft()
                self._run_cell(cell, environment)
        except Stop:
            pass
        except (redis.RedisError, kombu.exceptions.OperationalError, DatabaseError) as error:
            self._fail(
                EnvironmentNotReady(f"Infrastructure failed in the middle of the run: {type(error).__name__}: {error}.")
            )
        except Exception as error:  # noqa: BLE001  (a thread's error belongs to the run: execute() raises it)
            self._fail(error)
        finally:
            connections.close_all()

    def _tell(self, progress: Progress) -> None:
        for watcher in self._watchers:
            watcher(progress)

    def _fail(self, error: Exception) -> None:
        # Once the run is stopping, errors are its consequence: workers and servers are ending.
        if not self._stop.is_set():
            self._failures.append(error)
            self._stop.set()

    def _run_cell(self, cell: Cell, environment: Environment) -> None:
        lane = Lane(CellRun(cell, self.run_id, environment, self.folder), self._stop, self._tell)
        try:
            end = lane.run()
            with self._books:  # one reader at a time: two would read the same debits twice
                try:
                    reading.copy("bank", Bank(BankClient(environment.bank_url, 10.0)))
                    reading.copy("shop", Bookings())
                    end.books_read = True
                    if not end.reason:
                        settle(run=lane.name)
                except BankError as error:
                    end.reason = end.reason or f"the books could not be read: {error}"
            seen = Event.objects.filter(IN_A_RUN, run=lane.name).exclude(kind=SETTLED).order_by()
            end.events = dict(seen.values_list("kind").annotate(count=Count("id")))
            lane.record_end(end)
        finally:
            with contextlib.suppress(redis.RedisError):  # Redis is gone, and the keys with it
                lane.clean()

    def _report(self, events: Path, duration: float) -> dict[str, Any]:
        with events.open(encoding="utf-8") as file:
            results = check(history.read(file))
        overrides: dict[tuple[str, str, str], Prediction] = {}
        for cell in self.cells:
            known = prediction(cell.pattern, str(cell.fault), cell.point, clicks=cell.clicks, keyless=cell.keyless)
            if 0 < len(cell.victims) < len(WINDOWS) and not cell.point:
                # A single kill shows one window only: nothing need become visible.
                known = replace(known, expect=frozenset())
            overrides[cell.pattern, str(cell.fault), cell.point] = known
        return report.build(
            results,
            versions=versions(),
            seed=self.seed,
            started_at=self.started_at,
            duration_s=duration,
            configuration={
                "run": self.run_id,
                "broker": without_password(self.broker),
                "database": connections[Event.objects.db].vendor,
                "lanes": self.lanes,
                "plan": [cell.as_dict() for cell in self.cells],
            },
            predictions=overrides,
        )


def _needs_the_shop_to_itself(cell: Cell) -> bool:
    """Whether the cell keeps a transaction open for seconds: on SQLite no other cell can write to that file meanwhile."""
    vendor = connections[router.db_for_write(Booking)].vendor
    return vendor == "sqlite" and cell.pattern == "inbox" and cell.fault in OVERLAPPING


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {name: version(name) for name in ("celery", "kombu", "billiard", "redis", "django")}
    return {"python": platform.python_version(), **found}


def _folder(name: str) -> Path:
    runs = runs_folder()
    folder = runs / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    latest = runs / "latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to(folder.name)
    return folder
