"""What a fault needs of this machine and of the project, and cannot be injected without."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from django.db import connections, router

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.shop.models import Booking
from tasks_demo.lab.plan.cells import Cell
from tasks_demo.lab.plan.disturbed_requests import uses_database
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.processes import wall_clock
from tasks_demo.lab.processes.servers import postgres, rabbitmq


def _postgres_and_a_project_on_it() -> None:
    connection = connections[router.db_for_write(Booking)]
    if connection.vendor != "postgresql":
        raise EnvironmentNotReady(
            f"The jobs' tables are in {connection.display_name}: there is no server that could be killed. Set SHOP_DATABASE_URL "
            "to a PostgreSQL database; the lab then starts a server of its own beside it."
        )
    postgres.binaries()


def _postgres_without_tls() -> None:
    connection = connections[router.db_for_write(Booking)]
    if connection.vendor != "postgresql":
        raise EnvironmentNotReady(
            f"The jobs' tables are in {connection.display_name}: there is no connection that could be disturbed. Set "
            "SHOP_DATABASE_URL to a PostgreSQL database."
        )
    if (mode := connection.settings_dict["OPTIONS"].get("sslmode", "prefer")) not in {"disable", "allow", "prefer"}:
        raise EnvironmentNotReady(
            f"The database of the jobs' tables is used with TLS (sslmode={mode}), so that no request can be told from other "
            "bytes. Set SHOP_DATABASE_URL to a PostgreSQL database without TLS."
        )


_Need = Callable[[], object]
#: Each raises EnvironmentNotReady if what the fault needs is missing.
_NEEDS: dict[Fault, _Need] = {
    Fault.BROKER_KILL: rabbitmq.program,
    Fault.CLOCK_JUMP: wall_clock.library,
    Fault.DATABASE_KILL: _postgres_and_a_project_on_it,
}


def possible_here(cells: Sequence[Cell], *, everything: bool) -> tuple[list[Cell], list[str]]:
    """Return the cells whose faults this machine can inject, and a sentence for each reason for which others were left out.

    ``everything``: the faults were asked for by "all". Raises EnvironmentNotReady for one that was asked for by its name and is
    possible in no cell.
    """
    needs = {need: _missing(need) for need in map(_need, cells)}
    possible = [cell for cell in cells if not needs[_need(cell)]]
    somewhere = {cell.fault for cell in possible}
    left_out: dict[str, dict[str, None]] = {}
    for cell in cells:
        if why := needs[_need(cell)]:
            if not everything and cell.fault not in somewhere:
                raise EnvironmentNotReady(why)
            name = f"{cell.fault} of {cell.pattern}" if cell.fault in somewhere else str(cell.fault)
            left_out.setdefault(why, {})[name] = None
    return possible, sorted(f"Left out: {', '.join(names)}. {why}" for why, names in left_out.items())


def _need(cell: Cell) -> _Need:
    """What raises EnvironmentNotReady if this cell is not possible."""
    if uses_database(cell.pattern, cell.fault):
        return _postgres_without_tls
    return _NEEDS.get(cell.fault, bool)


def _missing(need: _Need) -> str:
    try:
        need()
    except EnvironmentNotReady as error:
        return str(error)
    return ""
