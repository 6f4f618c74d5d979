"""Gathers the evidence of each cell in one pass over a history. ``checker`` decides what it means.

Pure. A task ID and an operation cost one packed integer each, so that a million fit into a few hundred megabytes.
Over 300 lines: the loop and the state that it changes are read together, and called for every event.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from tasks_demo.core.points import BY_MAIN
from tasks_demo.lab.verdict.findings import Sentences, name
from tasks_demo.lab.verdict.history import POINTS, HistoryError, HistoryEvent
from tasks_demo.lab.verdict.worker_holdings import WorkerHoldings

CellKey = tuple[str, str, str, str]

# Counts are packed into one integer per task ID and one per operation, each in a lane of this many bits.
LANE = 32
MASK = (1 << LANE) - 1
OK, INFO, FAIL, DELIVERIES, EXECUTIONS = (1 << (LANE * lane) for lane in range(5))
EFFECTS = DELIVERIES  # in the integers of operations this lane counts effects
ANY_PUBLICATION = EFFECTS - 1
OUTCOMES = {"ok": OK, "info": INFO, "fail": FAIL}

_BITS = {point: 1 << number for number, point in enumerate(sorted(POINTS))}
_WEIGHTS = {"received": DELIVERIES, "started": EXECUTIONS}
_PLANS = {point: (_BITS[point], _WEIGHTS.get(point, 0)) for point in POINTS - {"published"}}
_RECEIVED = _BITS["received"]
_STARTED, _QUARANTINED = _BITS["started"], _BITS["quarantined"]
_KILLED = 1 << len(_BITS)
_ENDINGS = (
    "returned",
    "failed",
    "retried",
    "replaced",
    "rejected",
    "ignored",
    "expired",
    "revoked",
    "suppressed",
    "deferred",
    "quarantined",
)
_ENDED = sum(_BITS[point] for point in _ENDINGS)
#: Announced from a thread of its own, so that another point of the process may be written before it.
_BESIDE = _BITS["lease_lost"]
_MAIN_LINE = ("received", "claimed", "started", "effect_begun", "effect_done", "completed", "returned")
#: Faults that kill no process of the history. Those of the broker, and of a connection at one request, do not either.
_UNSEEN = frozenset({"slow", "lost-response", "double-publish", "publisher-crash", "hostile", "database-kill"})
_CLOCK = "clock-jump"
#: Faults that last: their victim has gone on when they end, and are reported.
_LASTING = frozenset({"delay", "black-hole", _CLOCK})
_OF_CONNECTION = frozenset({"delay", "black-hole", "cut"})
#: Faults after which the victim goes on.
_SURVIVED = _LASTING | {"cut", "term", "stop", "double-publish", "out-of-memory"}
#: Maximum number of tasks whose last receiver is remembered.
_LATEST = 50_000
#: For each point, what the same process announces later in the same delivery.
_LATER = {point: sum(_BITS[later] for later in _MAIN_LINE[i + 1 :]) for i, point in enumerate(_MAIN_LINE)}


class Kill:
    """One fault that the nemesis reports for a process that was running ``task_id``."""

    __slots__ = ("at", "detail", "held", "injected", "recovery", "task_id", "why")

    def __init__(self, at: float, task_id: str, injected: bool, why: str) -> None:
        self.at, self.task_id, self.injected, self.why = at, task_id, injected, why
        self.recovery: float | None = None
        self.held = 0  # under load: jobs that the killed worker held
        self.detail: dict[str, Any] = {}


class Evidence:
    """What the history holds about one cell."""

    def __init__(self, key: CellKey, at: float) -> None:
        self.pattern, self.fault, self.point, self.broker = key
        self.first_at = self.last_at = at
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.tasks: dict[str, int] = {}
        self.operations: dict[str, int] = {}
        self.operation_of: dict[str, str] = {}  # only where it is not the task ID itself
        self.sources: set[int | str] = set()
        self.running: dict[
            int, list[Any]
        ] = {}  # pid -> [task ID, points reached in this delivery, time of the last one]
        self.kills: list[Kill] = []
        self.awaited: dict[str, list[Kill]] = {}  # victims that have not started again
        self.parked: set[str] = set()  # operations in quarantine: not done, and not lost
        # The main process that received each task last; the latest tasks only.
        self.receivers: dict[str, int | None] = {}
        self.overdue: set[str] = set()  # redelivered to the main process that had received them before, and lived
        self.killed_in: dict[tuple[int, str], Kill] = {}
        self.named_otherwise: list[tuple[str, str]] = []
        self.quiescent: dict[str, Any] | None = None
        self.contradictions = Sentences()
        self.holdings = WorkerHoldings() if self.fault == "load" else None

    @property
    def planned_cells(self) -> int:
        """Number of cells that the run planned, this one among them; 1 if that was not recorded."""
        planned = (self.quiescent or {}).get("cells")
        return planned if type(planned) is int else 1

    def operation(self, task_id: str) -> str:
        """The operation under which a task was published."""
        return self.operation_of.get(task_id, task_id)

    def record_other_event(self, event: HistoryEvent) -> None:
        """Read an event that is not a point announced by a worker."""
        kind = event.kind
        if kind == "quiescent":
            self.quiescent = event.detail
            return
        self.counts[kind] += 1
        if kind == "published":
            self.record_publication(event)
        elif kind == "effect":
            self.record_effect(event)
        elif kind == "fault":
            self.record_fault(event)
        elif kind == "worker":
            # The pid of a dead process may be reused. (A worker's readiness may be recorded late.)
            if self.holdings is not None:
                self.holdings.record_worker(event)
            state = self.running.get(event.pid) if event.pid is not None else None
            if state is not None and event.detail.get("state") == "ready" and state[1] & _KILLED:
                del self.running[event.pid]  # type: ignore[arg-type]
        else:
            raise HistoryError(f"event {event.seq}: unknown kind {kind!r:.80}")

    def record_publication(self, event: HistoryEvent) -> None:
        task_id, operation = event.task_id, event.operation or event.task_id
        outcome = OUTCOMES.get(str(event.detail.get("outcome")))
        if outcome is None:
            self.contradictions.say(f"the publication of {name(task_id)} (event {event.seq}) has no outcome")
            outcome = INFO
        known = self.tasks.get(task_id, 0)
        if not known & ANY_PUBLICATION:
            if operation != task_id:
                self.operation_of[task_id] = operation
        elif self.operation(task_id) != operation:
            self.contradictions.say(f"{name(task_id)} was published for two operations (event {event.seq})")
        self.tasks[task_id] = known + outcome
        self.operations[operation] = self.operations.get(operation, 0) + outcome

    def record_effect(self, event: HistoryEvent) -> None:
        source: int | str = event.detail.get("source", "")
        operation = event.operation or event.task_id
        if not isinstance(source, str) or not source:
            self.contradictions.say(f"the effect on {name(operation)} (event {event.seq}) names no entry in the books")
            return
        digits = source[5:]
        if source.startswith("bank:") and digits.isdecimal() and digits[0] != "0" and digits.isascii():
            source = int(digits)  # half the memory of the text
        if source in self.sources:
            self.contradictions.say(f"one entry in the books is there twice ({name(operation)}, event {event.seq})")
            return
        self.sources.add(source)
        self.operations[operation] = self.operations.get(operation, 0) + EFFECTS
        if event.task_id and self.operation_of.get(event.task_id, event.task_id) != operation:
            self.named_otherwise.append((event.task_id, operation))

    def record_fault(self, event: HistoryEvent) -> None:
        detail = event.detail
        claimed, why, task_id = detail.get("landed") is True, str(detail.get("why") or ""), event.task_id
        kill = Kill(event.at, task_id, claimed, why)
        self.kills.append(kill)
        if not claimed:
            return
        what, point = str(detail.get("what") or ""), str(detail.get("point") or "")
        if what == "load":
            self._record_load_kill(kill, event)
            return
        parts = set(what.split(" + "))
        # "cut-publish" is a fault of a connection that disturbs the request "publish".
        unseen = {part for part in parts if part in _UNSEEN or part.rpartition("-")[0] in _OF_CONNECTION}
        if parts == unseen or what.startswith("broker-"):
            if what != self.fault:
                self._refute(kill, event, f"it is a {name(what)} in a cell of {name(self.fault)}")
            return
        pid = detail.get("main_pid") if point in BY_MAIN else detail.get("child_pid")
        state = self.running.get(pid) if isinstance(pid, int) else None
        # A warm shutdown and a pause let their victim go on: its later events do not contradict them.
        problem = self._not_at(state, point, task_id, survives=parts <= _SURVIVED)
        if parts & _LASTING and parts <= unseen | _LASTING | _OF_CONNECTION:
            problem = "" if state else "that process has done nothing"
        if parts & _OF_CONNECTION and not detail.get("connections"):
            problem = "no connection was open"
        if problem:
            self._refute(kill, event, problem)
            return
        if _CLOCK not in parts:  # its worker's times cannot be compared with ours
            self.awaited.setdefault(task_id, []).append(kill)
        if not parts <= _SURVIVED | {"quit"} and state is not None and isinstance(pid, int):
            state[1] |= _KILLED
            self.killed_in[pid, task_id] = kill

    def _record_load_kill(self, kill: Kill, event: HistoryEvent) -> None:
        pid = event.detail.get("main_pid")
        if self.holdings is None or not isinstance(pid, int) or (problem := self.holdings.why_not_killed(pid)):
            self._refute(kill, event, problem if self.holdings and isinstance(pid, int) else "no load, or no process")
            return
        held = self.holdings.record_kill(pid, str(event.detail.get("worker")))
        kill.held, kill.task_id, kill.detail = len(held), next(iter(held), ""), event.detail
        for task_id in held:
            self.awaited.setdefault(task_id, []).append(kill)

    def _refute(self, kill: Kill, event: HistoryEvent, problem: str) -> None:
        kill.injected = False
        self.contradictions.say(
            f"the kill of {name(kill.task_id)} (event {event.seq}) cannot have been injected: {problem}"
        )

    def _not_at(self, state: list[Any] | None, point: str, task_id: str, *, survives: bool) -> str:
        """Why the victim cannot have been at the point that the nemesis reports, or ""."""
        if state is None or state[0] != task_id:
            return "no execution of it was open in that process"
        reached: int = state[1]
        if reached & _KILLED:
            return "that process had been killed before"
        if point and not reached & _BITS.get(point, 0):
            return f"it had not reached {point}"
        if survives or point in BY_MAIN:
            return ""
        if point and reached & _LATER.get(point, 0):
            return f"it had gone on beyond {point}"
        if point not in _ENDINGS and reached & _ENDED:
            return "its execution had already ended"
        if not point and not reached & _STARTED:
            return "its body had not started"
        return ""

    def record_quarantine(self, event: HistoryEvent) -> None:
        self.parked.add(event.operation or event.task_id)

    def record_unusual(self, event: HistoryEvent, state: list[Any], bit: int) -> int:
        """The points that the process has reached in this delivery, after an event that is not simply the next point."""
        reached: int = state[1]
        if reached & _KILLED:
            kill = self.killed_in.get((event.pid or 0, event.task_id))
            if kill is not None and kill.injected:
                kill.injected = False
                self.contradictions.say(
                    f"the kill of {name(event.task_id)} cannot have been injected: the same process, {event.pid}, "
                    f"went on to {event.kind} (event {event.seq})"
                )
            return reached | bit
        if reached & _ENDED:
            return bit
        self.contradictions.say(
            f"process {event.pid} started {name(event.task_id)} twice without ending the first (event {event.seq})"
        )
        return reached | bit

    def record_time_reversal(self, event: HistoryEvent, state: list[Any], bit: int) -> None:
        """A process writes its points in order. (In a cell of ``quit`` a signal handler announces points between others, and in
        one of ``clock-jump`` the clock is set back.)"""
        if bit != _BESIDE and not {"quit", _CLOCK} & set(self.fault.split(" + ")):
            self.contradictions.say(
                f"event {event.seq} ({event.kind} {name(event.task_id)}) of process {event.pid} is "
                f"{state[2] - event.at:.6f} s older than the one before it: moved, or its clock was set back"
            )

    def record_receipt(self, event: HistoryEvent) -> None:
        """Read that a main process received a message."""
        task_id, pid = event.task_id, event.pid
        if event.detail.get("redelivered") is True and self.receivers.get(task_id) == pid is not None:
            self.overdue.add(task_id)
        if len(self.receivers) >= _LATEST:
            self.receivers.clear()  # a redelivery follows within seconds
        self.receivers[task_id] = pid

    def record_restart(self, event: HistoryEvent) -> None:
        for kill in self.awaited.pop(event.task_id):
            kill.recovery = max(kill.recovery or 0.0, event.at - kill.at)


def gather(events: Iterable[HistoryEvent]) -> list[Evidence]:
    """The evidence of every cell, in the order of their first events. Cells may be interleaved.

    Raises HistoryError if the numbering has a gap or a repetition, or a kind is unknown. A million tasks have ten million events:
    the loop avoids whatever is not needed for each of them.
    """
    cells: dict[CellKey, Evidence] = {}
    cell: Evidence | None = None
    pattern = fault = point = broker = ""
    number, before_at, before = 0, 0.0, None
    for event in events:
        if event.seq != number:
            if number:
                raise HistoryError(f"seq is {event.seq} where {number} must follow: the history has been changed")
            number = event.seq
        number += 1
        kind, at = event.kind, event.at
        if (
            cell is None
            or event.pattern != pattern
            or event.fault != fault
            or event.point != point
            or event.broker != broker
        ):
            if cell is not None:
                cell.last_at = before_at
            pattern, fault, point, broker = key = event.pattern, event.fault, event.point, event.broker
            cell = cells.get(key) or cells.setdefault(key, Evidence(key, at))
            counts, tasks, running, awaited, before = cell.counts, cell.tasks, cell.running, cell.awaited, None
        if cell.quiescent is not None:
            cell.contradictions.say(f"event {event.seq} ({kind} {name(event.task_id)}) comes after the end of its cell")
        if at == before_at and before is not None and _repeats(event, before):
            cell.contradictions.say(f"event {event.seq} ({kind} {name(event.task_id)}) repeats the one before it")
        before_at, before = at, event
        plan = _PLANS.get(kind)
        if plan is None:
            cell.record_other_event(event)
            continue
        counts[kind] += 1
        bit, weight = plan
        task_id, pid = event.task_id, event.pid
        if cell.holdings is not None:
            cell.holdings.record_point(event)
        if weight:
            tasks[task_id] = tasks.get(task_id, 0) + weight
            if bit == _RECEIVED:
                cell.record_receipt(event)
        if pid is not None:
            state = running.get(pid)
            if state is None:
                running[pid] = [task_id, bit, at]
            else:
                if at < state[2]:
                    cell.record_time_reversal(event, state, bit)
                state[2] = at
                if state[0] != task_id:
                    state[0], state[1] = task_id, bit
                elif state[1] & (_ENDED | _KILLED) or state[1] & bit & _STARTED:
                    state[1] = cell.record_unusual(event, state, bit)
                else:
                    state[1] |= bit
        if bit == _STARTED and awaited and task_id in awaited:
            cell.record_restart(event)
        elif bit == _QUARANTINED:
            cell.record_quarantine(event)
    if cell is not None:
        cell.last_at = before_at
    return list(cells.values())


def _repeats(event: HistoryEvent, before: HistoryEvent) -> bool:
    """Whether two events of one instant are the same. Entries in the books and workers may be seen together."""
    return (
        event.kind == before.kind
        and event.task_id == before.task_id
        and event.pid == before.pid
        and event.kind not in {"effect", "worker"}
    )
