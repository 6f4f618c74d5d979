"""Decides whether a copy of an outbox message may run, and when a copy counts as lost. Pure: no I/O.

What is **not** guaranteed: that a holder on another machine is dead if it is silent for longer than its lease. It may be
suspended or cut off from the database; then the job runs a second time.

A message that waits in its queue is not lost. A row is *open* (no copy has begun), *held* (a worker has begun a copy), *awaiting*
(a retry or deferral was published and is expected) or *finished*. A copy's generation is its retries plus its deferrals.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: The generation of a row that any copy may claim.
OPEN = -1
#: Maximum number of doublings of a wait; it doubles with every publication.
DOUBLINGS = 10
#: With evidence of loss, this many publications are not delayed further, because kills and restarts come in series.
PATIENT = 2


class Life(Enum):
    """What is known about the process that began a job."""

    GONE = "gone"
    HERE = "here"  # exists on this machine
    UNKNOWN = "unknown"  # on another machine or in another container, or this system has no /proc


@dataclass(frozen=True, slots=True)
class RowState:
    """The state of a row: its holder ("": none), and the generation that began last."""

    finished: bool
    holder: str
    generation: int


def is_alive(life: Life, silent: float, *, lease: float, unfinished: float) -> bool:
    """Return whether the holder counts as alive after ``silent`` seconds. A process that exists on this machine may be silent
    for longer: the greater of ``lease`` and ``unfinished`` (seconds).
    """
    return silent < {Life.GONE: 0.0, Life.HERE: max(lease, unfinished), Life.UNKNOWN: lease}[life]


def refusal(state: RowState, generation: int, alive: bool) -> str:
    """Return why a copy of this generation must not run, or "" if it may. ``alive``: whether the holder, if any, is alive."""
    if generation > state.generation and not (state.finished and state.generation == OPEN):
        return ""  # the later copy that the row awaits, or that the body published before it ended
    if state.finished:
        return "its job has ended"
    if state.holder:
        return "it was begun by a worker that lives" if alive else ""
    return "its job goes on with a later copy, a retry or a deferred one"


class Location(Enum):
    """Where the broker has a copy."""

    QUEUED = "queued"  # waiting in its queue
    UNACKED = "unacked"  # delivered to a worker and not acknowledged
    KEPT = (
        "kept"  # held by an owner of the reliable transport, which redelivers it when the owner dies; or a dead letter
    )
    ABSENT = "absent"  # the broker has no copy
    UNKNOWN = "unknown"  # this broker cannot tell


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about a copy that was published and has not begun, or was begun by a dead worker.

    ``age``: seconds since the publication.
    """

    age: float
    publications: int
    overtaken: bool  # a message published later to the same queue and priority ended some time ago
    broker: Location = Location.UNKNOWN
    idle: bool = False  # its queue is empty
    begun: bool = False  # begun by a worker that is dead
    workers: bool | None = None  # True: a worker holds it; False: no worker does; None: not asked, or not all answered


def must_ask_workers(evidence: Evidence) -> bool:
    """Return whether the workers' answer decides. Asking takes a second, so ask only if the copy cannot be in the queue.

    They are asked about an absent copy too: a message that is acknowledged early is absent shortly before its job begins.
    """
    if evidence.broker in {Location.UNACKED, Location.UNKNOWN}:
        return evidence.overtaken or evidence.idle or evidence.begun
    return evidence.broker is Location.ABSENT


def lost(evidence: Evidence, *, fallback: float) -> bool:
    """Return whether the copy counts as lost. Without evidence it does after ``fallback`` seconds, doubled per publication."""
    if evidence.broker in {Location.QUEUED, Location.KEPT}:
        return False
    if evidence.broker is Location.ABSENT or evidence.begun:
        return evidence.workers is not True
    if must_ask_workers(evidence) and evidence.workers is not None:
        return not evidence.workers
    return evidence.age >= fallback * doubled(evidence.publications)


def next_look(age: float, publications: int, unstarted: float) -> float:
    """Return the seconds until a waiting copy is checked again. The longer it has waited, the rarer the checks."""
    return min(max(unstarted, age / 2), 10 * unstarted) * doubled(publications - PATIENT)


def doubled(publications: int) -> float:
    """Return 1.0 for the first publication, 2.0 for the second, 4.0 for the third, at most 2 ** DOUBLINGS."""
    return 2.0 ** min(max(publications - 1, 0), DOUBLINGS)
