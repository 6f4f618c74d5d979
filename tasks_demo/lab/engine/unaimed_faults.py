"""Faults that send no signal: a lost response, a slow body, a double click. Whether they landed is read from their traces."""

from __future__ import annotations

import contextlib

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.core.lifecycle import Point
from tasks_demo.demo.bank.client import BankClient, BankError
from tasks_demo.lab.engine.cell_run import CellRun
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.processes.nemesis import FaultReport, Nemesis
from tasks_demo.ledger.models import Event

_BANK_SECONDS = 10.0


class UnaimedFaults:
    """The unaimed fault of a cell; does nothing in other cells."""

    def __init__(self, run: CellRun) -> None:
        self._run = run
        self._fault = run.cell.fault
        self._bank = BankClient(run.environment.bank_url, _BANK_SECONDS)

    def inject(self) -> None:
        """Have the bank lose the responses to the victims. Raises EnvironmentNotReady if it does not do that."""
        if self._fault is not Fault.LOST_RESPONSE:
            return
        try:
            self._bank.set_fault(self._run.hex_name, "lose_response", references=list(self._run.victims), each=1)
        except BankError as error:
            raise EnvironmentNotReady(
                f"The bank at {self._run.environment.bank_url} does not lose responses on request: {error} Start it with "
                "`manage.py bank --faults`, or unset BANK_URL for one of the lab's own."
            ) from error

    def remove(self) -> None:
        """Have the bank answer as usual again."""
        if self._fault is Fault.LOST_RESPONSE:
            with contextlib.suppress(BankError):
                self._bank.remove_fault(self._run.hex_name)

    def report(self, nemesis: Nemesis) -> None:
        """Report for each victim whether the fault landed."""
        if self._fault not in {Fault.SLOW, Fault.LOST_RESPONSE, Fault.DOUBLE_PUBLISH}:
            return
        landed = self._landed()
        for task_id in self._run.victims:
            why = "" if task_id in landed else "it left no trace"
            nemesis.report(task_id, FaultReport(what=str(self._fault), victim="", landed=task_id in landed, why=why))

    def _landed(self) -> set[str]:
        if self._fault is Fault.LOST_RESPONSE:
            return {task_id for task_id, hits in self._bank.fault_hits(self._run.hex_name).items() if hits}
        if self._fault is Fault.SLOW:
            return {task_id for task_id in self._run.victims if self._outlived_the_timeout(task_id)}
        return set(self._run.victims)  # both publications of a double click are in the history

    def _outlived_the_timeout(self, task_id: str) -> bool:
        """Whether the ledger shows a body that ran for longer than the visibility timeout."""
        events = Event.objects.filter(run=self._run.name, task_id=task_id, kind__in=[Point.STARTED, Point.EFFECT_DONE])
        started: dict[int | None, float] = {}
        for event in events.order_by("id"):
            if event.kind == Point.STARTED:
                started[event.pid] = event.at.timestamp()
            elif event.at.timestamp() - started.get(event.pid, event.at.timestamp()) > self._run.visibility_timeout:
                return True
        return False
