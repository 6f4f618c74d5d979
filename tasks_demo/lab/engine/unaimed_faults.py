"""Faults that send no signal: a lost response, a slow body, a double click. Whether they landed is read from their traces."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.core.lifecycle import Point
from tasks_demo.demo.bank.client import BankClient, BankError
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.processes.nemesis import FaultReport, Nemesis
from tasks_demo.ledger.models import Event

_BANK_SECONDS = 10.0


@dataclass(frozen=True)
class UnaimedFaults:
    """The unaimed fault of a cell, if its fault is one. ``name``: of the setting at the bank, without slashes and colons."""

    fault: Fault
    victims: Sequence[str]
    run: str
    name: str
    bank_url: str
    visibility_timeout: float

    def inject(self) -> None:
        """Have the bank lose the responses to the victims. Raises EnvironmentNotReady if it does not do that."""
        if self.fault is not Fault.LOST_RESPONSE:
            return
        try:
            self._bank().set_fault(self.name, "lose_response", references=list(self.victims), each=1)
        except BankError as error:
            raise EnvironmentNotReady(
                f"The bank at {self.bank_url} does not lose responses on request: {error} Start it with "
                "`manage.py bank --faults`, or unset BANK_URL for one of the lab's own."
            ) from error

    def remove(self) -> None:
        """Have the bank answer as usual again."""
        if self.fault is Fault.LOST_RESPONSE:
            with contextlib.suppress(BankError):
                self._bank().remove_fault(self.name)

    def report(self, nemesis: Nemesis) -> None:
        """Report for each victim whether the fault landed."""
        if self.fault not in {Fault.SLOW, Fault.LOST_RESPONSE, Fault.DOUBLE_PUBLISH}:
            return
        landed = self._landed()
        for task_id in self.victims:
            why = "" if task_id in landed else "it left no trace"
            nemesis.report(task_id, FaultReport(what=str(self.fault), victim="", landed=task_id in landed, why=why))

    def _landed(self) -> set[str]:
        if self.fault is Fault.LOST_RESPONSE:
            return {task_id for task_id, hits in self._bank().fault_hits(self.name).items() if hits}
        if self.fault is Fault.SLOW:
            return {task_id for task_id in self.victims if self._outlived_the_timeout(task_id)}
        return set(self.victims)  # both publications of a double click are in the history

    def _outlived_the_timeout(self, task_id: str) -> bool:
        """Whether the ledger shows a body that ran for longer than the visibility timeout."""
        events = Event.objects.filter(run=self.run, task_id=task_id, kind__in=[Point.STARTED, Point.EFFECT_DONE])
        started: dict[int | None, float] = {}
        for event in events.order_by("id"):
            if event.kind == Point.STARTED:
                started[event.pid] = event.at.timestamp()
            elif event.at.timestamp() - started.get(event.pid, event.at.timestamp()) > self.visibility_timeout:
                return True
        return False

    def _bank(self) -> BankClient:
        return BankClient(self.bank_url, _BANK_SECONDS)
