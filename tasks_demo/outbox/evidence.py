"""Decides whether a copy of an outbox message may run, and when a copy counts as lost. Pure: no I/O.

A message that waits in its queue is not lost. A row is *open* (no copy has begun), *held* (a worker has begun it), *awaiting* (a
retry or deferral was published, and is expected) or *finished*. A copy's generation is its retries plus its deferrals.

What is **not** guaranteed: that a holder on another machine that is silent for longer than its lease is dead. It may be
suspended, or cut off from the database, and the job then runs a second time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: The generation of a row that any copy may claim.
OPEN = -1
#: A wait doubles with every publication, this many times at most.
DOUBLINGS = 10
#: With evidence of loss, this many publications are not delayed further: kills and restarts come in series.
PATIENT = 2


class Life(Enum):
    """What is known of the process that has begun a job."""

    GONE = "gone"
    HERE = "here"  # it exists on this machine
    UNKNOWN = "unknown"  # on another machine or in another container, or this system has no /proc


@dataclass(frozen=True, slots=True)
class State:
    """A row: who holds it ("": nobody), and the generation that began last."""

    finished: bool
    holder: str
    generation: int


def lives(life: Life, silent: float, *, lease: float, unfinished: float) -> bool:
    """Whether the holder counts as alive. A process that exists on this machine may be silent for longer."""
    return silent < {Life.GONE: 0.0, Life.HERE: max(lease, unfinished), Life.UNKNOWN: lease}[life]


def refusal(state: State, generation: int, alive: bool) -> str:
    """Why a copy of this generation must not run, or "" if it may; ``alive``: of the holder, if there is one."""
    if generation > state.generation and not (state.finished and state.generation == OPEN):
        return ""  # the later copy that the row awaits, or that its body published before it ended
    if state.finished:
        return "its job has ended"
    if state.holder:
        return "it was begun by a worker that lives" if alive else ""
    return "its job goes on with a later copy, a retry or a deferred one"


class Held(Enum):
    """Where the broker, and after it the workers, have a copy."""

    QUEUED = "queued"  # it waits in its queue
    UNACKED = "unacked"  # handed to a worker, and not acknowledged
    ABSENT = "absent"  # the broker has no copy at all
    UNKNOWN = "unknown"  # this broker cannot tell


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a copy that was published, and not begun, or begun by a dead worker. ``age``: seconds since then."""

    age: float
    publications: int
    overtaken: bool  # one that was published later to the same queue, at the same priority, has ended some time ago
    broker: Held = Held.UNKNOWN
    idle: bool = False  # nothing waits in its queue
    begun: bool = False  # by a worker that is dead
    workers: bool | None = None  # a worker holds it (True), all that were asked do not (False), or they cannot be asked


def must_ask_workers(evidence: Evidence) -> bool:
    """Whether the workers' answer decides. It takes a second, so they are asked only if the copy cannot be in the queue."""
    return evidence.broker in {Held.UNACKED, Held.UNKNOWN} and (evidence.overtaken or evidence.idle or evidence.begun)


def lost(evidence: Evidence, *, fallback: float) -> bool:
    """Whether the copy counts as lost. Without evidence it does after ``fallback`` seconds, doubling with every publication."""
    match evidence.broker:
        case Held.ABSENT:
            return True
        case Held.QUEUED:
            return False
    if evidence.begun:
        return evidence.workers is not True
    if must_ask_workers(evidence) and evidence.workers is not None:
        return not evidence.workers
    return evidence.age >= fallback * doubled(evidence.publications)


def next_look(age: float, publications: int, unstarted: float) -> float:
    """Seconds until a copy that waits is looked at again: the longer it has waited, the less often."""
    return min(max(unstarted, age / 2), 10 * unstarted) * doubled(publications - PATIENT)


def doubled(publications: int) -> float:
    """1.0 for the first publication, 2.0 for the second, and so on."""
    return 2.0 ** min(max(publications - 1, 0), DOUBLINGS)
