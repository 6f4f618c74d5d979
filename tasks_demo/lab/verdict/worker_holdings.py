"""The jobs that each worker of a cell under load holds: its message is not acknowledged, or its body runs. Pure.

Counted from the history alone, so that anyone can count it again. A worker holds a job until both its end and its acknowledgement
are in the history. Where a kill took the last events with it, too many jobs are counted, never too few.
"""

from __future__ import annotations

from tasks_demo.lab.verdict.history import HistoryEvent

_TAKEN = frozenset({"received", "started"})
_ENDED, _ACKED = 1, 2
_ENDS = {"acked": _ACKED} | dict.fromkeys(("returned", "failed", "retried", "suppressed", "quarantined"), _ENDED)
#: The message went back to the broker, or was dropped: the worker holds it no longer.
_RELEASED = frozenset({"deferred", "rejected", "ignored", "expired", "revoked", "replaced"})


class WorkerHoldings:
    """What the workers of a cell hold, as its events are read one after the other."""

    def __init__(self) -> None:
        #: Worker → task ID → which of the two ends are seen.
        self.held: dict[str, dict[str, int]] = {}
        #: Task ID → how many killed workers held it; it may be delivered again that many times.
        self.excused: dict[str, int] = {}
        #: Own memory of main processes when they began to consume, bytes.
        self.memory: list[int] = []
        self._alive: set[int] = set()
        self._killed: set[int] = set()

    def record_point(self, event: HistoryEvent) -> None:
        """Read a point that a worker has announced."""
        kind, worker = event.kind, event.worker
        if kind in _TAKEN:
            self.held.setdefault(worker, {}).setdefault(event.task_id, 0)
        elif kind in _ENDS:
            mine = self.held.get(worker)
            if mine is not None and event.task_id in mine:
                mine[event.task_id] |= _ENDS[kind]
                if mine[event.task_id] == _ENDED | _ACKED:
                    del mine[event.task_id]
        elif kind in _RELEASED:
            self.held.get(worker, {}).pop(event.task_id, None)

    def record_worker(self, event: HistoryEvent) -> None:
        """Read that a worker consumes, or has ended."""
        if event.pid is not None and event.detail.get("state") == "ready":
            self._alive.add(event.pid)
            self._killed.discard(event.pid)  # the pid of a dead process may be used again
            memory = event.detail.get("memory")
            if type(memory) is int:
                self.memory.append(memory)

    def why_not_killed(self, pid: int) -> str:
        """Return why this main process cannot have been killed now, or ""."""
        if pid in self._killed:
            return "that process had been killed before"
        return "" if pid in self._alive else "no worker consumed in that process"

    def record_kill(self, pid: int, worker: str) -> list[str]:
        """Return the task IDs that the worker with this main process held; they are excused if they run again."""
        self._killed.add(pid)
        held = list(self.held.pop(worker, {}))
        for task_id in held:
            self.excused[task_id] = self.excused.get(task_id, 0) + 1
        return held
