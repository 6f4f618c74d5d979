"""The jobs of a cell: one operation each, with a task ID for each click. Pure."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from tasks_demo.lab.controls import RIVALS
from tasks_demo.lab.plan.cells import Cell
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.timing import TOO_LONG_SECONDS

#: What each job charges, cents.
AMOUNT = 1999


@dataclass(frozen=True, slots=True)
class Job:
    """One operation: its task IDs, one for each click, and the arguments of its task."""

    task_ids: tuple[str, ...]
    kwargs: dict[str, Any]
    args: list[Any] = field(default_factory=list)


def jobs_of(cell: Cell, name: str) -> list[Job]:
    """The jobs of a cell in order. Their task IDs follow from ``name``, which is unique to cell and run."""
    namespace = uuid.uuid5(uuid.NAMESPACE_URL, name)
    return [_job(cell, index, namespace) for index in range(cell.tasks)]


def _job(cell: Cell, index: int, namespace: uuid.UUID) -> Job:
    victim = index in cell.victims
    clicks = max(2, cell.clicks) if victim and Fault.DOUBLE_PUBLISH in cell.faults else cell.clicks
    ids = tuple(str(uuid.uuid5(namespace, f"{index}:{click}" if click else str(index))) for click in range(clicks))
    if cell.project_task is not None:
        call = cell.project_task.call(index)
        return Job(ids, call.kwargs, call.args)
    kwargs: dict[str, Any] = {
        # Some libraries compare arguments, across cells too.
        "customer": ids[0] if cell.pattern in RIVALS else f"customer-{index % 10}",
        "amount": AMOUNT,
        "work_ms": int(TOO_LONG_SECONDS * 1000) if victim and cell.fault is Fault.SLOW else cell.work_ms,
    }
    if cell.keyless and cell.pattern == "dedup_lock":
        kwargs["keyless"] = True
    if clicks > 1:
        kwargs["operation"] = f"order:{ids[0]}"
    return Job(ids, kwargs)
