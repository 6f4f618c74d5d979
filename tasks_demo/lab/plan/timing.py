"""How long leases, visibility timeouts and faults of a cell last, and how long a cell may take. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tasks_demo.lab.plan.brokers import KINDS
from tasks_demo.lab.plan.cells import Cell
from tasks_demo.lab.plan.faults import Fault

#: Seconds until Redis redelivers an unacknowledged message. Short where only the timeout redelivers it. Longer where the
#: worker rejects it after the death of a pool process: an early redelivery would hide a rejection that failed. Longer, too,
#: where nothing tells a copy apart, so that a message does not wait for as long as that on a machine that stands still.
VISIBILITY_AFTER_MAIN = 3.0
VISIBILITY_AFTER_CHILD = 10.0
VISIBILITY_WITHOUT_CLAIM = 10.0
#: A message of 50 MB takes many seconds on a busy machine, and must not be redelivered meanwhile.
VISIBILITY_AMONG_HOSTILE = 60.0
#: Faults after which the visibility timeout redelivers the message.
BY_TIMEOUT = {Fault.KILL_MAIN, Fault.KILL_GROUP, Fault.TERM, Fault.QUIT, Fault.STOP, Fault.SLOW, Fault.CUT} | {
    Fault.BLACK_HOLE,
    Fault.OUT_OF_MEMORY,
    *(fault for fault in Fault if fault.of_broker),
}
#: Faults during which a copy of the victim must find a free pool process.
OVERLAPPING = {Fault.STOP, Fault.SLOW}
LEASE_SECONDS = 1.5
#: How long an outage of the broker lasts.
OUTAGE_SECONDS = 2.0
#: How much later what is delayed arrives, each way, and how long a delay and a black hole last. Longer than a request and its
#: reply; shorter than the 15 s in which the reliable transport takes a silent worker for dead, and than a lease of stock Redis.
LATENCY_SECONDS = 2.0
DISTURBED_SECONDS: dict[Fault, float] = {Fault.DELAY: 7.0, Fault.BLACK_HOLE: 2.0, Fault.CLOCK_JUMP: 2.0}
#: Maximum time for a request to be made, and for its answer to be at the proxy that cuts there, seconds.
ANSWER_SECONDS = 10.0
#: How far a clock jumps, longer than any timeout; and for how long a victim is held meanwhile, before it goes on for as long as
#: above: long enough for its main process to look for what seems to be overdue.
JUMP_SECONDS, HELD_SECONDS = 7200, 2.0
#: Victims of an overlapping fault that a worker has processes for. With more, jobs wait in the worker for longer than the
#: visibility timeout and are redelivered, whatever their pattern (docs/explanation/lab-findings.md).
MOST_OVERLAPPING = 12
#: A task of the project may wait in the worker for one job before it, and both may take longer than was said.
_OWN_WORK = 3
#: How long a process is stopped, and how long a slow job works: longer than the lease and the visibility timeout, and less
#: than twice the timeout, or the copy would be redelivered too.
TOO_LONG_SECONDS = 1.7 * max(VISIBILITY_AFTER_MAIN, LEASE_SECONDS)
#: Attempts after which a message is parked.
MAX_ATTEMPTS = 3
#: After these times the outbox asks whether a message that no worker has started was lost, and whether a worker that has
#: started a job is still alive.
OUTBOX_SETTINGS = {
    "OUTBOX_UNSTARTED_SECONDS": 3.0,
    "OUTBOX_LEASE_SECONDS": 3.0,
    "OUTBOX_UNFINISHED_SECONDS": 15.0,
}
#: A worker under load: its pool processes, and messages that it prefetches for each, as Celery does by default. With this
#: many jobs in the queue no more are published.
LOAD_PROCESSES, LOAD_PREFETCH, LOAD_QUEUED = 2, 4, 500
#: After a hostile message, the next job must be done within this many seconds.
HOSTILE_SECONDS = 30.0
#: Seconds: a base, and what each job and each fault may add.
_LIMIT, _LIMIT_PER_JOB, _LIMIT_PER_FAULT = 60.0, 0.2, 3.0
#: Seconds, measured on two cores with four cells side by side: the start of a run and of a cell, and what each job and each
#: fault adds. After the death of a main process a worker is started.
_EXPECTED_START, _EXPECTED_CELL, _EXPECTED_JOB = 2.0, 2.5, 0.01
_EXPECTED_FAULT, _EXPECTED_MAIN = 0.2, 0.6


def visibility_timeout(cell: Cell) -> float:
    """Seconds until Redis redelivers an unacknowledged message of this cell: above the work of any job, waiting included."""
    least = 0.0 if cell.project_task is None else _OWN_WORK * cell.work_ms / 1000
    if cell.fault is Fault.HOSTILE:
        return VISIBILITY_AMONG_HOSTILE
    if not BY_TIMEOUT.intersection(cell.faults) or Fault.DELAY in cell.faults:
        return max(VISIBILITY_AFTER_CHILD, least)
    patient = _without_claim(cell) and not OVERLAPPING.intersection(cell.faults)
    return max(VISIBILITY_WITHOUT_CLAIM if patient else VISIBILITY_AFTER_MAIN, least)


def waiting_limit(cell: Cell) -> float:
    """Seconds that a message may wait for its body before a second copy is delivered and runs as well; 0: however long.

    Early acknowledgement, on a broker with a visibility timeout: the message is acknowledged when its body starts, and nothing
    else tells the copies apart. A cell is planned to wait for less; on a busy machine it may not. (After a fault of the
    connection or the broker a living worker may be given a message again for that reason, and a clock that jumps is one.)
    """
    only_so = not any(fault.of_connection or fault.of_broker or fault is Fault.CLOCK_JUMP for fault in cell.faults)
    return visibility_timeout(cell) if only_so and _without_claim(cell) else 0.0


def _without_claim(cell: Cell) -> bool:
    """Whether a copy that the visibility timeout delivers runs beside the first: nothing but the acknowledgement tells them."""
    pattern = (cell.project_task.pattern or "acks_early") if cell.project_task else cell.pattern
    return KINDS[cell.broker].times_out and cell.early and pattern == "acks_early"


def pause(cell: Cell) -> float:
    """Seconds that a process of this cell is stopped: longer than its lease and its visibility timeout."""
    return 1.7 * max(visibility_timeout(cell), LEASE_SECONDS)


def concurrency(cell: Cell) -> int:
    """Pool processes of a worker: one, a few under load, or enough for the other jobs while victims are stopped or slow."""
    if cell.fault is Fault.LOAD:
        return LOAD_PROCESSES
    return min(len(cell.victims), MOST_OVERLAPPING) + 2 if cell.fault in OVERLAPPING else 1


def disturbed(cell: Cell) -> float:
    """Seconds for which each fault of this cell disturbs its connections, or its clock."""
    if cell.fault.disturbed_request:  # a delay is over when request and answer have arrived
        late = cell.fault.disturbance is Fault.DELAY
        return 2 * LATENCY_SECONDS if late else DISTURBED_SECONDS.get(cell.fault.disturbance, 0.0)
    held = HELD_SECONDS if cell.fault is Fault.CLOCK_JUMP else 0.0
    return held + max(DISTURBED_SECONDS.get(fault, 0.0) for fault in cell.faults)


def planned_faults(cell: Cell) -> int:
    """Number of faults that the plan asks for. A poison job is killed at every attempt."""
    attempts = MAX_ATTEMPTS if cell.fault is Fault.POISON and not cell.early else 1
    return len(cell.victims) * attempts


def time_limit(cell: Cell) -> float:
    """Seconds after which a cell that is not quiescent and makes no progress is ``unknown``."""
    jobs = cell.tasks * (_LIMIT_PER_JOB * cell.clicks + cell.work_ms / 1000 * 2)
    redelivered = visibility_timeout(cell) if _without_claim(cell) else VISIBILITY_AFTER_MAIN
    each = HOSTILE_SECONDS if cell.fault is Fault.HOSTILE else _LIMIT_PER_FAULT + redelivered + disturbed(cell)
    return _LIMIT + jobs + (each + KINDS[cell.broker].sweep_seconds) * planned_faults(cell)


def expected_seconds(cells: Sequence[Cell], lanes: int) -> float:
    """Estimate how long a run of these cells takes on two cores. Not a bound: ``time_limit`` is."""
    each = [_expected(cell) for cell in cells]
    return _EXPECTED_START + max(max(each, default=0.0), sum(each) / max(1, min(lanes, len(cells))))


def _expected(cell: Cell) -> float:
    jobs = cell.tasks * cell.clicks * (_EXPECTED_JOB + cell.work_ms / 1000)
    faults = planned_faults(cell) * (_EXPECTED_MAIN if cell.fault.victim in {"main", "group"} else _EXPECTED_FAULT)
    waiting = (
        visibility_timeout(cell) + KINDS[cell.broker].sweep_seconds if BY_TIMEOUT.intersection(cell.faults) else 0.0
    )
    waiting += disturbed(cell) * len(cell.victims)
    if cell.fault in OVERLAPPING:
        waiting += TOO_LONG_SECONDS * math.ceil(len(cell.victims) / MOST_OVERLAPPING)
    return _EXPECTED_CELL + jobs + faults + waiting
