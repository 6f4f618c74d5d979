"""Puts hostile messages among the jobs of a cell, and finds out where each of them ended."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable
from typing import Any

from tasks_demo.core.lifecycle import Point
from tasks_demo.lab.engine.cell_run import CellRun
from tasks_demo.lab.engine.workers import Workers
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.hostile import KINDS, HostileMessage, hostile_message
from tasks_demo.lab.plan.timing import HOSTILE_SECONDS, time_limit
from tasks_demo.lab.processes.fault_report import FaultReport
from tasks_demo.ledger.events import FAULT
from tasks_demo.ledger.models import Event

_POLL_SECONDS = 0.02
_GONE = ", and is gone"
#: What Celery writes about a message that it does not run: text -> where the message ended. The first that fits counts.
_LOGGED = (
    ("Unrecoverable error", f"it ended the worker{_GONE}"),
    ("Received and deleted unknown message", "logged and deleted: unknown message"),
    ("Received unregistered task", "logged and rejected: unknown task"),
    ("Can't decode message body", "logged and deleted: its body cannot be decoded"),
    ("Received invalid task message", "logged and rejected: invalid"),
    ("Connection to broker lost", f"it cost the worker its connection{_GONE}"),
)
#: Kinds of events of the message's own job after which nothing more happens to it.
_ENDED = {
    Point.FAILED: "failed",
    Point.REJECTED: "rejected",
    Point.SUPPRESSED: "suppressed",
    Point.QUARANTINED: "parked",
    Point.RETURNED: "run",
}


class HostileMessages:
    """The hostile messages of a cell; does nothing in other cells. ``stop``: set when the run is interrupted.

    The jobs before a message are done when it is put, and nothing else is published until the next one is done, so that a new
    trace is a trace of it. A worker that ends is started again, as a supervisor does.
    """

    def __init__(self, run: CellRun, workers: Workers, stop: threading.Event) -> None:
        self._run = run
        self._workers = workers
        self._stop = stop
        victims = sorted(run.cell.victims) if run.cell.fault is Fault.HOSTILE else []
        self._kinds = {index: KINDS[number % len(KINDS)] for number, index in enumerate(victims)}
        #: The message on its way; before it: the ledger's last event, the number of dead letters, the length of the log.
        self._before: tuple[HostileMessage, int, int, int] | None = None
        #: Why the cell cannot be judged: messages that are not accounted for.
        self.missing = ""

    def put_before(self, index: int, producer: Any) -> None:
        """Put the hostile message that precedes the job ``index``, if there is one."""
        kind = self._kinds.get(index)
        if kind is None:
            return
        job = self._run.jobs[index - 1]
        # With a backlog before it, the next job would wait for that.
        self._wait_for(job.task_ids[0], time_limit(self._run.cell))
        task_id = job.task_ids[0] if kind == "same-id" else str(uuid.uuid4())
        message = hostile_message(kind, self._run.task.name, task_id, job.kwargs)
        last = Event.objects.order_by("-id").values_list("id", flat=True).first() or 0
        self._before = message, last, self._run.broker.dead_letters(), len(self._log())
        if message.unreadable:
            self._run.broker.put(message.body)
            return
        producer.publish(
            message.body, exchange="", routing_key=self._run.broker.queue.name if self._run.broker.queue else "celery",
            content_type=message.content_type, content_encoding="utf-8", headers=message.headers, declare=[],
        )  # fmt: skip

    def report_after(self, index: int) -> FaultReport | None:
        """Wait until the job ``index``, the first after its hostile message, is done, and report where the message ended."""
        if self._before is None:
            return None
        message, last, letters, seen = self._before
        self._before = None
        started = time.monotonic()
        done = self._wait_for(self._run.jobs[index].task_ids[0], HOSTILE_SECONDS)
        seconds = round(time.monotonic() - started, 3)
        ended = self._where(message, last, letters, seen)
        if message.unreadable and self._run.broker.withdraw():
            ended = f"{ended.removesuffix(_GONE)}, and is delivered again (the lab took it out)"
        why = "it left no trace" if not ended else ""
        if not done:
            why = f"the next job was not done within {HOSTILE_SECONDS:g} s"
        if why:
            self.missing = f"the hostile message {message.kind} is not accounted for: {why}"
        return FaultReport(
            what=str(Fault.HOSTILE),
            victim="",
            injected=not why,
            why=why,
            message=message.kind,
            ended=ended,
            seconds=seconds,
        )

    def _wait_for(self, task_id: str, seconds: float) -> bool:
        """Whether the job returns in time."""
        deadline = time.monotonic() + seconds
        while not Event.objects.filter(run=self._run.name, task_id=task_id, kind=Point.RETURNED).exists():
            if self._workers.exited.is_set():
                self._workers.start()
            if time.monotonic() > deadline or self._stop.wait(_POLL_SECONDS):
                return False
        return True

    def _where(self, message: HostileMessage, last: int, letters: int, seen: int) -> str:
        if self._run.broker.dead_letters() > letters:
            return "a dead letter"
        if message.task_id:
            kinds = Event.objects.filter(run=self._run.name, task_id=message.task_id, pk__gt=last)
            for event in kinds.filter(kind__in=list(_ENDED)).order_by("-id"):
                return f"{_ENDED[Point(event.kind)]}: {event.detail.get('why', '')}".removesuffix(": ")[:200]
        log = self._log()[seen:]
        return next((ended for text, ended in _LOGGED if text in log), "")

    def _log(self) -> str:
        path = self._run.worker_log
        return path.read_text(errors="replace") if path.exists() else ""


def where_ended(runs: Iterable[CellRun]) -> list[str]:
    """Say, for each cell with hostile messages, where each of them ended, and how long the slowest next job took."""
    return [_sentence(run) for run in runs if run.cell.fault is Fault.HOSTILE]


def _sentence(run: CellRun) -> str:
    details = [event.detail for event in Event.objects.filter(run=run.name, kind=FAULT).order_by("id")]
    ends = "; ".join(f"{each['message']}: {each['ended'] or each['why']}" for each in details)
    slowest = max((each["seconds"] for each in details), default=0.0)
    return (
        f"{run.cell.pattern}: {sum(each['landed'] for each in details)} of {len(details)} hostile messages are accounted for, "
        f"and the next job was done within {slowest:.1f} s. {ends}."
    )
