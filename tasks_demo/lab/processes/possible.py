"""What a fault needs of this machine and of the project, and cannot be injected without."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from django.db import connections, router

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.shop.models import Booking
from tasks_demo.lab.plan.cells import Cell
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
            f"The database of the jobs' tables is used with TLS (sslmode={mode}), so that a commit cannot be told from other "
            "bytes. Set SHOP_DATABASE_URL to a PostgreSQL database without TLS."
        )


#: Each raises EnvironmentNotReady if what the fault needs is missing.
_NEEDS: dict[Fault, Callable[[], object]] = {
    Fault.BROKER_KILL: rabbitmq.program,
    Fault.CLOCK_JUMP: wall_clock.library,
    Fault.DATABASE_KILL: _postgres_and_a_project_on_it,
    **{fault: _postgres_without_tls for fault in Fault if fault.place == "commit"},
}


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
