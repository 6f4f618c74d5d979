"""The workers of a cell: one at a time, forked from the template, and started again for as long as jobs are left."""

from __future__ import annotations

import threading
from dataclasses import replace

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.lab.engine.cell_log import CellLog
from tasks_demo.lab.processes.brokers import RedisLane
from tasks_demo.lab.processes.nemesis import DEATH_SECONDS, Nemesis
from tasks_demo.lab.processes.specs import Publication, WorkerSpec
from tasks_demo.lab.processes.template import TemplateClient


class Workers:
    """Starts and stops the worker of a cell. ``exited`` is set while none runs; ``name``: of the current one."""

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        broker: RedisLane,
        visibility_timeout: float,
        template: TemplateClient,
        nemesis: Nemesis,
        log: CellLog,
    ) -> None:
        self.name = ""
        self.exited = threading.Event()
        self._spec = spec
        self._broker = broker
        self._visibility_timeout = visibility_timeout
        self._template = template
        self._nemesis = nemesis
        self._log = log
        self._started = 0
        self._pid = 0

    def start(self) -> None:
        """Fork the next worker."""
        self._started += 1
        self.exited.clear()
        name = self.name = f"w{self._started}@{self._spec.name}"
        options = self._broker.transport_options(self._visibility_timeout, name)
        spec = replace(self._spec, name=name, transport_options=options)
        self._pid = self._template.fork(spec, lambda status: self._on_exit(name, status))
        self._nemesis.mains.add(self._pid)

    def stop_warm(self) -> None:
        """Ask the current worker to end by a warm shutdown; it may just have been killed."""
        self._template.terminate(self._pid)

    def publish_and_die(self, publication: Publication) -> None:
        """Publish one job in a process that the nemesis may kill. Raises EnvironmentNotReady if it does not end."""
        ended = threading.Event()
        spec = replace(self._spec, name="publisher", publication=publication)
        self._nemesis.mains.add(self._template.fork(spec, lambda _status: ended.set()))
        if not ended.wait(DEATH_SECONDS):
            raise EnvironmentNotReady("A publisher of the lab neither published nor died.")

    def _on_exit(self, name: str, status: int) -> None:
        try:
            self._log.worker("exited", name=name, pid=self._pid or None, exit=status)
        finally:
            self.exited.set()
