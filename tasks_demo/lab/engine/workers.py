"""The workers of a cell: one at a time, forked from the template, and started again for as long as jobs are left."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.lab.engine.cell_run import CellRun
from tasks_demo.lab.plan import timing
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.processes.deaths import DEATH_SECONDS
from tasks_demo.lab.processes.nemesis import Nemesis
from tasks_demo.lab.processes.specs import Publication, WorkerSpec


class Workers:
    """Starts and stops the worker of a cell. ``exited`` is set while none runs; ``name``: of the current one."""

    def __init__(self, run: CellRun, nemesis: Nemesis, prefix: str = "w") -> None:
        """``prefix``: of its workers' names."""
        self.name = ""
        self.pid = 0
        self._prefix = prefix
        self.exited = threading.Event()
        self._run = run
        self._nemesis = nemesis
        self._started = 0

    def start(self) -> None:
        """Fork the next worker."""
        self._started += 1
        self.exited.clear()
        name = self.name = f"{self._prefix}{self._started}@{self._run.cell.name.replace('/', '.').replace('@', '.')}"
        self.pid = self._run.environment.template.fork(self._spec(name), lambda status: self._on_exit(name, status))
        self._nemesis.mains.add(self.pid)

    def current(self) -> dict[str, Any]:
        """Return name and pid of the worker that was started last, and whether it lives, for ``Progress``."""
        return {"worker": self.name, "pid": self.pid, "alive": not self.exited.is_set()}

    def stop_warm(self) -> None:
        """Ask the current worker to end by a warm shutdown; it may just have been killed."""
        self._run.environment.template.terminate(self.pid)

    def publish_and_die(self, publication: Publication) -> None:
        """Publish one job in a process that the nemesis may kill. Raises EnvironmentNotReady if it does not end."""
        ended = threading.Event()
        spec = replace(self._spec("publisher"), publication=publication)
        self._nemesis.mains.add(self._run.environment.template.fork(spec, lambda _status: ended.set()))
        if not ended.wait(DEATH_SECONDS):
            raise EnvironmentNotReady("A publisher of the lab neither published nor died.")

    def _spec(self, name: str) -> WorkerSpec:
        run, cell = self._run, self._run.cell
        return WorkerSpec(
            name=name,
            run=run.name,
            socket=self._nemesis.address,
            victims={task_id: str(point) for task_id, point in run.aimed.items()},
            log=str(run.worker_log),
            broker_url=run.worker_url,
            transport_options=run.transport_options(name),
            broker=cell.broker,
            held=run.broker.held(name),
            conf=run.broker.conf(name) | self._load_settings(),
            redis_url=run.leases.url,
            leases_url=run.leases_url,
            database_port=run.database_port,
            key_prefix=run.leases.prefix,
            lease_seconds=timing.LEASE_SECONDS,
            bank_url=run.environment.bank_url,
            concurrency=timing.concurrency(cell),
            # A delivery that main did not live to write down would be missing beside its execution. But Celery's handler of
            # SIGQUIT reports on every job in hand, and would wait in the middle of main's commit for that commit.
            main_waits=cell.fault not in {Fault.QUIT, Fault.LOAD},
            write_through=cell.fault is not Fault.LOAD,
            clock=str(run.clock.file) if run.clock else "",
            control=cell.pattern if run.control else "",
            task=cell.project_task.name if cell.project_task else "",
            settings={"MAX_ATTEMPTS": timing.MAX_ATTEMPTS, **timing.OUTBOX_SETTINGS},
        )

    def _load_settings(self) -> dict[str, Any]:
        """Under load a worker prefetches, and only what starts a body waits for the ledger: starts are what is counted."""
        return {"worker_prefetch_multiplier": timing.LOAD_PREFETCH} if self._run.cell.load else {}

    def _on_exit(self, name: str, status: int) -> None:
        try:
            self._run.record_worker("exited", name=name, pid=self.pid or None, exit=status)
        finally:
            self.exited.set()
