"""Runs the cells of a plan in lanes, reads the books, writes the history, and has it checked."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kombu.exceptions
import redis
from amqp.exceptions import AMQPError
from celery import current_app
from django.conf import settings as django_settings
from django.db import DatabaseError, connections

from tasks_demo import ledger
from tasks_demo.core import lifecycle
from tasks_demo.core.exceptions import DeliveryError, EnvironmentNotReady
from tasks_demo.lab.engine.cell_run import CellRun, runs_alone
from tasks_demo.lab.engine.hostile_messages import where_ended
from tasks_demo.lab.engine.lane import Lane, Progress
from tasks_demo.lab.engine.main_thread import MainThread
from tasks_demo.lab.engine.publishing import Stop
from tasks_demo.lab.engine.witnesses import EffectsUnknown, witness_of
from tasks_demo.lab.plan.brokers import KINDS
from tasks_demo.lab.plan.cells import Cell
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.outcomes import Prediction
from tasks_demo.lab.plan.predictions import prediction
from tasks_demo.lab.plan.project_task_advice import advice, predict_project_task
from tasks_demo.lab.plan.timing import OUTBOX_SETTINGS
from tasks_demo.lab.processes.assumptions import assume
from tasks_demo.lab.processes.brokers import queue_settings, without_password
from tasks_demo.lab.processes.environment import Environment, environment
from tasks_demo.lab.processes.run_folder import EVENTS, RESULT, new_folder, run_name
from tasks_demo.lab.reports import document as report
from tasks_demo.lab.verdict import history
from tasks_demo.lab.verdict.checker import CellResult, check
from tasks_demo.ledger.events import EFFECT, SETTLED
from tasks_demo.ledger.models import IN_A_RUN, Event
from tasks_demo.ledger.recorder import recorder
from tasks_demo.ledger.settling import settle

logger = logging.getLogger(__name__)

#: Maximum time until a Ctrl-C is noticed, seconds.
SIGNAL_SECONDS = 0.2


@dataclass
class RunResult:
    """The result document of a run, its history file, and whether it was interrupted."""

    result: dict[str, Any]
    events: Path
    folder: Path
    interrupted: bool
    failure: DeliveryError | None = None
    notes: Sequence[str] = ()


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
        command: str = "",
    ) -> None:
        """``broker``: its address; empty: the usual one. ``name``: of its folder, which may exist; empty: a new one.
        ``command``: what repeats the run, for its reports.
        """
        self.cells = list(cells)
        self.seed = seed
        self.broker = broker
        self.command = command
        self.lanes = max(1, min(lanes, len(self.cells)))
        self.started_at = datetime.now(UTC)
        name = name or run_name(self.started_at, seed, uuid.uuid4().hex[:10])
        self.run_id = name[-10:]
        self.folder = new_folder(name)
        self._queue: deque[Cell] = deque()
        self._lock = threading.Lock()
        self._books = threading.Lock()
        self._stop = threading.Event()
        self._main_thread = MainThread()
        self._failures: list[Exception] = []
        self._cell_runs: dict[str, CellRun] = {}
        self._watchers: tuple[Callable[[Progress], None], ...] = ()

    def execute(self, *watchers: Callable[[Progress], None]) -> RunResult:
        """Run every cell; ``watchers`` are called with its progress, from the threads of the lanes.

        Ctrl-C ends workers, Redis and bank, and keeps what was recorded until then.

        Raises EnvironmentNotReady if infrastructure is missing at the start; a later failure makes cells unknown.
        """
        started = time.monotonic()
        interrupted = False
        self._watchers = watchers
        # The lanes record publications themselves, with their outcome: Celery's signal would count them again.
        lifecycle.ignore(recorder)
        current_app.finalize()
        assume(current_app)
        for name, value in OUTBOX_SETTINGS.items():
            setattr(django_settings, f"TASKS_DEMO_{name}", value)
        current_app.conf.update(queue_settings())
        current_app.__dict__.pop("amqp", None)  # made of the settings before these
        # A node that is killed is the cell's own.
        shared = dict.fromkeys(cell.broker for cell in self.cells if cell.fault is not Fault.BROKER_KILL)
        kinds = [KINDS[name] for name in shared]
        demo, faults = any(cell.project_task is None for cell in self.cells), {cell.fault for cell in self.cells}
        with (
            contextlib.ExitStack() as recording_again,
            environment(
                self.folder,
                kinds,
                self.broker if kinds else "",
                self.run_id,
                demo=demo,
                own_database=Fault.DATABASE_KILL in faults,
                own_clock=Fault.CLOCK_JUMP in faults,
            ) as found,
        ):
            recording_again.callback(ledger.start_recording)
            alone = [cell for cell in self.cells if runs_alone(cell)]
            for cells, lanes in (([cell for cell in self.cells if cell not in alone], self.lanes), (alone, 1)):
                if not self._stop.is_set():
                    interrupted = self._side_by_side(cells, lanes, found)
        events = self.folder / EVENTS
        with events.open("wb") as file:
            history.write(self.history(), file)
        result = self._report(events, time.monotonic() - started)
        (self.folder / RESULT).write_text(report.as_json(result), encoding="utf-8")
        unforeseen = [failure for failure in self._failures if not isinstance(failure, DeliveryError)]
        if unforeseen:
            raise unforeseen[0]  # a defect; what was recorded until then is in the folder
        known = [failure for failure in self._failures if isinstance(failure, DeliveryError)]
        failure = known[0] if known else None
        return RunResult(result, events, self.folder, interrupted, failure, where_ended(self._cell_runs.values()))

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
                    self._main_thread.run_pending()
            except KeyboardInterrupt:
                self._stop.set()
                environment.template.close()
                return True
        return False

    def history(self) -> Iterator[history.HistoryEvent]:
        """Yield the whole history, cell by cell, in the order in which the ledger committed it."""
        number = 0
        for cell in self.cells:
            for event in self._events(cell):
                number += 1
                yield history.HistoryEvent(
                    seq=number,
                    at=event.at.timestamp(),
                    pattern=cell.pattern,
                    fault=cell.fault_name,
                    point=cell.point,
                    broker=cell.broker,
                    kind=event.kind,
                    task_id=event.task_id,
                    operation=event.operation,
                    worker=event.worker,
                    pid=event.pid,
                    detail=event.detail,
                )

    def _events(self, cell: Cell) -> Iterator[Event]:
        """Yield a cell's events as they were committed; where executions are judged, with an effect for each that returned."""
        run = self._cell_runs.get(cell.name)
        if run is None or not run.runs_other_jobs:
            rows = Event.objects.filter(IN_A_RUN, run=f"{self.run_id}:{cell.name}").exclude(kind=SETTLED).order_by("id")
            yield from rows.iterator(chunk_size=2000)
            return
        for event in run.events():
            yield event
            if run.counts_as_effect(event):
                event.kind, event.detail = EFFECT, {"source": f"execution:{event.pk}"}
                yield event

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
        except (redis.RedisError, AMQPError, kombu.exceptions.OperationalError, DatabaseError) as error:
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
        run = CellRun(cell, self.run_id, environment, self.folder)
        witness = witness_of(run)
        self._cell_runs[cell.name] = run
        lane = Lane(run, self._stop, self._tell, self._main_thread)
        try:
            witness.prepare(run)
            end = lane.run()
            end.cells = len(self.cells)
            with self._books:
                try:
                    witness.read_effects(run)
                    end.books_read = True
                    if not end.reason:
                        settle(run=lane.name)
                except EffectsUnknown as error:
                    end.reason = end.reason or str(error)
            end.events = run.count_events()
            lane.record_end(end)
        finally:
            witness.clean(run)
            with contextlib.suppress(redis.RedisError, AMQPError, OSError):  # the server is gone, and its keys with it
                lane.clean()

    def _report(self, events: Path, duration: float) -> dict[str, Any]:
        with events.open("rb") as file:
            results = check(history.read(file), {cell.pattern: cell.promise for cell in self.cells})
        overrides: dict[tuple[str, str, str, str], Prediction] = {}
        for cell in self.cells:
            place = cell.pattern, cell.fault_name, cell.point, cell.broker
            if cell.project_task is not None:
                overrides[place] = predict_project_task(cell.project_task)
                continue
            known = prediction(
                cell.pattern, cell.fault_name, cell.point, clicks=cell.clicks, keyless=cell.keyless, broker=cell.broker
            )
            if 0 < len(cell.victims) < len(cell.windows) and not cell.point:
                known = replace(known, required=frozenset())  # a few kills need not show every window
            overrides[place] = known
        return report.build(
            [self._advised(result) for result in results],
            versions=report.versions(),
            seed=self.seed,
            started_at=self.started_at,
            duration_s=duration,
            configuration={
                "run": self.run_id,
                "command": self.command,
                "broker": without_password(self.broker) or " ".join(dict.fromkeys(cell.broker for cell in self.cells)),
                "database": connections[Event.objects.db].vendor,
                "lanes": self.lanes,
                "plan": [cell.as_dict() for cell in self.cells],
            },
            predictions=overrides,
        )

    def _advised(self, result: CellResult) -> CellResult:
        """The result of a task of the project whose promise broke, with what broke it."""
        run = next((one for one in self._cell_runs.values() if one.is_of(result)), None)
        if run is None or run.cell.project_task is None or result.observed != "broken":
            return result
        seen = {what for what in ("lost", "duplicated") if getattr(result, what)}
        return replace(result, reasons=[*advice(run.cell, seen, run.failure()), *result.reasons])
