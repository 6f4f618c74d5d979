"""Servers of the lab's own, which it may kill, and what else a fault needs of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.lab.plan.cells import Cell
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.processes.servers import rabbitmq

#: Each raises EnvironmentNotReady if what the fault needs is missing.
_NEEDS: dict[Fault, Callable[[], object]] = {Fault.BROKER_KILL: rabbitmq.program}


def possible_here(cells: Sequence[Cell], *, everything: bool) -> tuple[list[Cell], list[str]]:
    """Return the cells whose faults this machine can inject, and a sentence for each fault that was left out.

    ``everything``: the faults were asked for by "all". Raises EnvironmentNotReady for one that was asked for by its name.
    """
    missing: dict[Fault, str] = {}
    for fault in {cell.fault for cell in cells} & _NEEDS.keys():
        try:
            _NEEDS[fault]()
        except EnvironmentNotReady as error:
            if not everything:
                raise
            missing[fault] = f"Left out: {fault}. {error}"
    return [cell for cell in cells if cell.fault not in missing], sorted(missing.values())
