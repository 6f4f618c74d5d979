"""Who says what took effect in a cell: the demo's books, or what counts the effects of a task of the project."""

from __future__ import annotations

from typing import Protocol

from django.db import connections

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.bank.client import BankClient, BankError
from tasks_demo.demo.ledger_books import Bank, Bookings
from tasks_demo.lab.engine.cell_run import CellRun
from tasks_demo.lab.plan.project_task import Call
from tasks_demo.lab.processes.project_tasks import Effects, counter, forget_done, refuse_done
from tasks_demo.ledger import reading

_BANK_SECONDS = 10.0


class EffectsUnknown(Exception):
    """The effects are not known; the message says why."""


class Witness(Protocol):
    """``prepare`` is called before the first publication, ``read_effects`` when nothing is left, ``clean`` at the end.

    ``clean`` is called in any case. ``read_effects`` raises EffectsUnknown, ``prepare`` EnvironmentNotReady.
    """

    def prepare(self, run: CellRun) -> None: ...

    def read_effects(self, run: CellRun) -> None: ...

    def clean(self, run: CellRun) -> None: ...


class DemoBooks:
    """The bank and the shop. One reader at a time: two would read the same debits twice."""

    def prepare(self, run: CellRun) -> None:
        pass

    def read_effects(self, run: CellRun) -> None:
        try:
            reading.copy("bank", Bank(BankClient(run.environment.bank_url, _BANK_SECONDS)))
        except BankError as error:
            raise EffectsUnknown(f"the books could not be read: {error}") from error
        reading.copy("shop", Bookings())

    def clean(self, run: CellRun) -> None:
        pass


class Executions:
    """Nobody else: executions that returned are judged, and those are in the history."""

    _forget = False

    def prepare(self, run: CellRun) -> None:
        refuse_done(run.task, list(run.operations))
        self._forget = True

    def read_effects(self, run: CellRun) -> None:
        pass

    def clean(self, run: CellRun) -> None:
        if self._forget:
            forget_done(run.task, list(run.operations), [each for job in run.jobs for each in job.task_ids])


class ProjectEffects(Executions):
    """Counts the effects of each operation before the run and after it; the difference is the run's."""

    def __init__(self, count: Effects) -> None:
        self._count = count
        self._known: dict[str, int] = {}

    def prepare(self, run: CellRun) -> None:
        super().prepare(run)
        self._known = self._counted(run)

    def read_effects(self, run: CellRun) -> None:
        connections.close_all()  # of this thread: the project's server may have been restarted meanwhile
        try:
            now = self._counted(run)
        except EnvironmentNotReady as error:
            raise EffectsUnknown(str(error).rstrip(".")) from error
        if fewer := next((each for each in now if now[each] < self._known[each]), None):
            raise EffectsUnknown(
                f"the effects of {fewer} became fewer during the run: {self._known[fewer]}, then {now[fewer]}"
            )
        run.record_effects({each: now[each] - self._known[each] for each in now})

    def _counted(self, run: CellRun) -> dict[str, int]:
        calls = [Call(job.args, job.kwargs) for job in run.operations.values()]
        return dict(zip(run.operations, self._count(calls), strict=True))


def witness_of(run: CellRun) -> Witness:
    """Return who says what took effect in this cell."""
    project_task = run.cell.project_task
    if project_task is None:
        return DemoBooks()
    return ProjectEffects(counter(project_task.effects)) if project_task.effects else Executions()
