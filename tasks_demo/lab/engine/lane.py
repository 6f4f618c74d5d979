"""One cell, run: broker lane and nemesis up, worker started, jobs published, faults, drain to quiescence.

A lane has a key prefix, a worker and a nemesis of its own, so that several run side by side and their waiting (for
leases and visibility timeouts) costs no time.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kombu.exceptions
from celery import current_app
from django.db import connections
from django.db.models import Q, QuerySet

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.core.lifecycle import BY_MAIN, Point
from tasks_demo.core.semantics import PROMISES, Semantics
from tasks_demo.demo.bank.client import BankClient, BankError
from tasks_demo.demo.shop.models import Order
from tasks_demo.demo.shop.orders import place_order
from tasks_demo.demo.tasks import CHARGES
from tasks_demo.lab.plan.cells import Cell
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.processes.brokers import Holdings, RedisLane
from tasks_demo.lab.processes.nemesis import DEATH_PATIENCE, Nemesis
from tasks_demo.lab.processes.template import TemplateClient
from tasks_demo.ledger.models import Event
from tasks_demo.ledger.rows import FAULT, QUIESCENT, WORKER, Row
from tasks_demo.ledger.store import store
from tasks_demo.outbox.relay import Relay
from tasks_demo.records.models import OutboxMessage, Parked

#: Seconds until Redis hands an unacknowledged message out again: after a main's death soon; after a child's death the
#: rejection brings it back, and an early restore would hide it if that failed.
VISIBILITY_AFTER_MAIN = 3.0
VISIBILITY_AFTER_CHILD = 10.0
#: Faults after which it is the visibility timeout that brings the message back.
BY_TIMEOUT = {Fault.KILL_MAIN, Fault.KILL_GROUP, Fault.TERM, Fault.QUIT, Fault.STOP, Fault.SLOW}
#: Faults during which a copy of the victim must find a free pool process.
OVERLAPPING = {Fault.STOP, Fault.SLOW}
LEASE_SECONDS = 1.5
#: Victims of such a fault that a worker has processes for. Beyond, jobs wait in the worker for longer than the visibility
#: timeout and are delivered again, whatever their pattern (docs/explanation/lab.md).
MOST_ASLEEP = 12
#: How long a stopped process sleeps, and a slow job works: beyond the lease and the visibility timeout.
#: Below twice the timeout, or the copy would be delivered again, too.
TOO_LONG_SECONDS = 1.7 * max(VISIBILITY_AFTER_MAIN, LEASE_SECONDS)
#: Deaths after which a message is parked.
MAX_ATTEMPTS = 3
#: After this time the outbox asks whether what nobody has begun was lost, and whether who began a job still lives.
OUTBOX = {"OUTBOX_UNSTARTED_SECONDS": 3.0, "OUTBOX_LEASE_SECONDS": 3.0, "OUTBOX_UNFINISHED_SECONDS": 15.0}
#: Bound on a cell, seconds: a floor, and what each job and each kill may add.
PATIENCE, PATIENCE_PER_JOB, PATIENCE_PER_KILL = 60.0, 0.2, 6.0
POLL = 0.05
AMOUNT = 1999
#: Header by which a lane knows its own messages in an outbox that all lanes share.
RUN_HEADER = "tasks_demo_run"


_NO_MORE = object()


class Stop(Exception):
    """The run is being interrupted."""


class LaneRelay(Relay):
    """The relay of one lane: of the outbox that all lanes share, its own messages; of the broker, its own queues."""

    def __init__(self, broker: RedisLane, visibility: float, where: Q) -> None:
        super().__init__(interval=POLL)
        self._broker, self._visibility, self._where = broker, visibility, where

    def _rows(self) -> QuerySet[OutboxMessage]:
        return super()._rows().filter(self._where)

    def _connected(self, options: dict[str, Any]) -> Any:
        options = {**options, **self._broker.transport_options(self._visibility)}
        return self._app.connection_for_write(self._broker.broker_url, transport_options=options)


@dataclass(frozen=True)
class Job:
    """One operation: its task IDs (one for each click) and its arguments."""

    task_ids: list[str]
    kwargs: dict[str, Any]


@dataclass
class Progress:
    """What a screen may show of a cell while it runs."""

    cell: Cell
    state: str = "waiting"
    left: int = 0
    landed: int = 0


@dataclass
class Lane:
    """Runs one cell. ``socket_dir`` must be short: a Unix socket's path holds about 100 bytes."""

    cell: Cell
    run_id: str
    template: TemplateClient
    redis_url: str
    bank_url: str
    folder: Path
    socket_dir: Path
    stop: threading.Event
    progress: Callable[[Progress], None]
    _state: Progress = field(init=False)

    def __post_init__(self) -> None:
        cell = self.cell
        self.name = f"{self.run_id}:{cell.name}"
        namespace = uuid.uuid5(uuid.NAMESPACE_URL, self.name)
        self.nickname = namespace.hex  # where slashes and colons may not be
        self.jobs = [self._job(index, namespace) for index in range(cell.tasks)]
        self.task_ids = [job.task_ids[0] for job in self.jobs]
        self._operations = {
            task_id: job.kwargs.get("operation", task_id) for job in self.jobs for task_id in job.task_ids
        }
        self.task = CHARGES[cell.pattern]
        self.early = PROMISES[cell.pattern].semantics is Semantics.AT_MOST_ONCE
        # While victims sleep or work for too long, the others, and the copies, find a free pool process.
        self.concurrency = min(len(cell.victims), MOST_ASLEEP) + 2 if cell.fault in OVERLAPPING else 1
        self.visibility = VISIBILITY_AFTER_MAIN if cell.fault in BY_TIMEOUT else VISIBILITY_AFTER_CHILD
        self.broker = RedisLane(self.redis_url, f"lab:{self.run_id}:{cell.name}:")
        self.outbox = Q(**{f"options__headers__{RUN_HEADER}": self.name}) if cell.publisher == "outbox" else None
        self._confirmed = 0
        self._number = 0
        self._note_lock = threading.Lock()
        self._exited = threading.Event()
        self._workers = 0
        self._worker = ""
        self._pid = 0
        self._state = Progress(cell, left=cell.tasks)

    def _job(self, index: int, namespace: uuid.UUID) -> Job:
        clicks = self.cell.clicks
        if self.cell.fault is Fault.DOUBLE_PUBLISH and index in self.cell.victims:
            clicks = max(2, clicks)
        ids = [str(uuid.uuid5(namespace, f"{index}:{click}" if click else str(index))) for click in range(clicks)]
        slow = self.cell.fault is Fault.SLOW and index in self.cell.victims
        kwargs: dict[str, Any] = {
            "customer": f"customer-{index % 10}",
            "amount": AMOUNT,
            "work_ms": int(TOO_LONG_SECONDS * 1000) if slow else self.cell.work_ms,
        }
        if self.cell.keyless and self.cell.pattern == "dedup_lock":
            kwargs["keyless"] = True
        if clicks > 1:
            kwargs["operation"] = f"order:{ids[0]}"
        return Job(ids, kwargs)

    @property
    def planned_faults(self) -> int:
        """How many faults the plan asks for: a poisonous job is killed at every attempt."""
        again = MAX_ATTEMPTS if self.cell.fault is Fault.POISON and not self.early else 1
        return len(self.cell.victims) * again

    def run(self) -> dict[str, Any]:
        """Run the cell and return the evidence of quiescence; the caller reads the books and writes it down.

        Raises Stop when the run is interrupted; EnvironmentNotReady and broker errors when the ground gives way.
        """
        cell = self.cell
        started = time.monotonic()
        deadline = started + PATIENCE + PATIENCE_PER_JOB * cell.tasks * cell.clicks
        deadline += PATIENCE_PER_KILL * self.planned_faults + cell.tasks * cell.work_ms / 1000 * 2
        nemesis = Nemesis(
            self.socket_dir / f"{uuid.uuid4().hex[:8]}.sock",
            cell.fault,
            {self.task_ids[index]: point for index, point in cell.victims.items()} if cell.fault.aimable else {},
            on_fault=self._note_fault,
            on_ready=self._note_ready,
            now=self._missing if self.early else None,
            pause_seconds=TOO_LONG_SECONDS,
        )
        self.nemesis = nemesis
        try:
            with self._relaying():
                self._harm_bank()
                self._start_worker()
                with contextlib.closing(self._publishing()) as publishing:
                    reason = self._drain(deadline, publishing)
            self._note_unseen_faults()
        finally:
            nemesis.close()
            self._heal_bank()
        held = self.broker.holdings()
        evidence = {
            "queued": held.queued,
            "unacked": held.unacked,
            "outbox": self._unfinished(),
            "running": 0 if self._exited.is_set() else self.concurrency,
            "workers": 0 if self._exited.is_set() else 1,
            "deferred": 0,
            "books_read": False,
            "published": self._confirmed,
            "planned_kills": self.planned_faults,
            "reason": reason,
            "duration_s": round(time.monotonic() - started, 3),
            "seed": cell.seed,
            "publisher": cell.publisher,
            "clicks": cell.clicks,
            "tasks": sum(len(job.task_ids) for job in self.jobs),
        }
        self._show("reading the books")
        return evidence

    def note_quiescent(self, evidence: dict[str, Any], counts: dict[str, int]) -> None:
        """Close the cell's history: the evidence, and how many events of each kind it has."""
        self._note(QUIESCENT, detail={**evidence, "events": counts})
        self._show("done" if not evidence["reason"] else "unknown")

    def clean(self) -> None:
        """Remove what the lane left in Redis."""
        self.broker.purge()
        self.broker.client.close()

    # -- publishing ---------------------------------------------------------------------------------------------------

    def _publishing(self) -> Generator[None]:
        """Publish the jobs, one operation for each step."""
        rows: list[Row] = []
        hand_over = self._into_outbox if self.outbox is not None else self._to_broker
        crashing = self.cell.victims if self.cell.fault is Fault.PUBLISHER_CRASH else {}
        options = self.broker.transport_options(self.visibility)
        try:
            with current_app.connection_for_write(self.broker.broker_url, transport_options=options) as connection:
                producer = connection.Producer()
                for index, job in enumerate(self.jobs):
                    for task_id in job.task_ids:
                        self._raise_if_stopped()
                        how = self._by_a_publisher_that_dies if index in crashing else hand_over
                        outcome = how(task_id, job.kwargs, producer)
                        self._confirmed += outcome["outcome"] == "ok"
                        rows.append(self._row("published", task_id=task_id, detail=outcome))
                    if len(rows) >= 100 or self.outbox is not None:
                        store.append(rows)
                        rows = []
                    yield
        finally:
            store.append(rows)  # also when it was interrupted: the broker has these jobs

    def _to_broker(self, task_id: str, kwargs: dict[str, Any], producer: Any) -> dict[str, Any]:
        try:
            self.task.apply_async(kwargs=kwargs, task_id=task_id, producer=producer, ignore_result=True, retry=False)
        except kombu.exceptions.OperationalError:
            return {"outcome": "info"}  # the answer is missing: the broker may have the message
        return {"outcome": "ok"}

    def _into_outbox(self, task_id: str, kwargs: dict[str, Any], producer: Any) -> dict[str, Any]:
        """The commit of the message row is the hand-over that was confirmed to the customer."""
        place_order(self.task, kwargs, task_id=task_id, headers={RUN_HEADER: self.name})
        return {"outcome": "ok", "by": "commit"}

    def _by_a_publisher_that_dies(self, task_id: str, kwargs: dict[str, Any], producer: Any) -> dict[str, Any]:
        """A process commits the order and is killed before it publishes. The customer was promised the charge by the commit."""
        ended = threading.Event()
        options = {"headers": {RUN_HEADER: self.name}}
        job = {"pattern": self.cell.pattern, "task_id": task_id, "kwargs": kwargs, "options": options}
        order = {**self._order("publisher"), "publish": {**job, "publisher": self.cell.publisher}}
        self.nemesis.mains.add(self.template.fork(order, lambda status: ended.set()))
        if not ended.wait(DEATH_PATIENCE):
            raise EnvironmentNotReady("A publisher of the lab neither published nor died.")
        committed = Order.objects.filter(task_id=task_id).exists()
        return {"outcome": "ok" if committed else "fail", "by": "commit"}

    @contextlib.contextmanager
    def _relaying(self) -> Iterator[None]:
        """A relay of this lane's own, with its reconciler, for as long as the lane runs."""
        if self.outbox is None:
            yield
            return
        stop = threading.Event()
        relay = LaneRelay(self.broker, self.visibility, self.outbox)
        thread = threading.Thread(target=self._relay, args=(relay, stop), name="relay")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    @staticmethod
    def _relay(relay: Relay, stop: threading.Event) -> None:
        try:
            relay.run(stop)
        finally:
            connections.close_all()

    def _unfinished(self) -> int:
        """Messages of this lane's outbox that nobody has reported as done, those in quarantine apart."""
        if self.outbox is None:
            return 0
        parked = Parked.objects.filter(state=Parked.State.PARKED).values("task_id")
        waiting = OutboxMessage.objects.filter(self.outbox, finished_at=None)
        return waiting.exclude(task_id__in=parked).count()

    # -- faults that strike no process --------------------------------------------------------------------------------

    def _missing(self, task_id: str, point: str) -> str:
        """What a fault at an early-acknowledged job still waits for, or ""."""
        if point == Point.ACKING:
            done = Event.objects.filter(run=self.name, task_id=task_id, kind=Point.EFFECT_DONE).exists()
            return "" if done else "the body had no effect"
        if point in BY_MAIN:
            return ""
        return "the message was not acknowledged" if self.broker.holds(task_id) else ""

    def _victims(self) -> list[str]:
        return [self.task_ids[index] for index in sorted(self.cell.victims)]

    def _harm_bank(self) -> None:
        if self.cell.fault is not Fault.LOST_RESPONSE:
            return
        try:
            BankClient(self.bank_url, 10.0).set_fault(
                self.nickname, "lose_response", references=self._victims(), each=1
            )
        except BankError as error:
            raise EnvironmentNotReady(
                f"The bank at {self.bank_url} does not lose responses on request: {error} Start it with "
                "`manage.py bank --faults`, or unset BANK_URL for one of the lab's own."
            ) from error

    def _heal_bank(self) -> None:
        if self.cell.fault is Fault.LOST_RESPONSE:
            with contextlib.suppress(BankError):
                BankClient(self.bank_url, 10.0).remove_fault(self.nickname)

    def _note_unseen_faults(self) -> None:
        """Write down whether the faults that the nemesis has no hand in did happen, from the evidence they left."""
        landed: Callable[[str], bool]
        if self.cell.fault is Fault.SLOW:
            landed = self._worked_too_long
        elif self.cell.fault is Fault.LOST_RESPONSE:
            hits = BankClient(self.bank_url, 10.0).fault_hits(self.nickname)
            landed = lambda task_id: hits.get(task_id, 0) > 0  # noqa: E731
        elif self.cell.fault is Fault.DOUBLE_PUBLISH:
            landed = lambda task_id: True  # noqa: E731  (both publications are in the history)
        else:
            return
        for task_id in self._victims():
            happened = landed(task_id)
            detail = {
                "what": str(self.cell.fault),
                "victim": "",
                "landed": happened,
                "why": "" if happened else "no trace of it",
            }
            self._note_fault(task_id, detail)
            self.nemesis.landed += happened

    def _worked_too_long(self, task_id: str) -> bool:
        events = Event.objects.filter(run=self.name, task_id=task_id, kind__in=[Point.STARTED, Point.EFFECT_DONE])
        began: dict[int | None, float] = {}
        for event in events.order_by("id"):
            if event.kind == Point.STARTED:
                began[event.pid] = event.at.timestamp()
            elif event.at.timestamp() - began.get(event.pid, event.at.timestamp()) > self.visibility:
                return True
        return False

    # -- workers ------------------------------------------------------------------------------------------------------

    def _order(self, name: str) -> dict[str, Any]:
        aimed = self.cell.victims if self.cell.fault.aimable else {}
        return {
            "name": name,
            "run": self.name,
            "socket": self.nemesis.address,
            "victims": {self.task_ids[index]: str(point) for index, point in aimed.items()},
            "log": str(self.folder / f"{self.cell.name.replace('/', '-').replace('@', '-')}.log"),
            "broker_url": self.broker.broker_url,
            "transport_options": self.broker.transport_options(self.visibility, name),
            "concurrency": self.concurrency,
            "lock": {"url": self.redis_url, "prefix": self.broker.prefix, "lease_seconds": LEASE_SECONDS},
            "bank_url": self.bank_url,
            # A delivery that main did not live to write down would be missing beside its execution. But Celery's handler of
            # SIGQUIT reports on every job in hand, and would wait in the middle of main's commit for that commit.
            "main_waits": self.cell.fault is not Fault.QUIT,
            "settings": {"MAX_ATTEMPTS": MAX_ATTEMPTS, **OUTBOX},
        }

    def _start_worker(self) -> None:
        self._workers += 1
        self._exited.clear()
        self._worker = name = f"w{self._workers}@{self.cell.name.replace('/', '.').replace('@', '.')}"
        self._pid = self.template.fork(self._order(name), lambda status: self._note_exit(name, status))
        self.nemesis.mains.add(self._pid)

    def _note_ready(self, pid: int) -> None:
        self._note(WORKER, pid=pid, detail={"state": "ready"})

    def _note_exit(self, name: str, status: int) -> None:
        try:
            self._note(WORKER, worker=name, pid=self._pid or None, detail={"state": "exited", "exit": status})
        finally:
            self._exited.set()

    # -- quiescence ---------------------------------------------------------------------------------------------------

    def _drain(self, deadline: float, publishing: Iterator[None]) -> str:
        """Publish, and keep a worker running until nothing is left, then stop it warm: its end proves that nothing runs.

        It is stopped only when it holds no message either: a job that is fetched or started at the moment of SIGTERM can be
        forgotten unacknowledged (docs/explanation/lab.md), and the lab would have injected a fault of its own. Returns "" or
        what was left at the deadline.
        """
        self._show("running")
        asked, more = False, True
        held, outbox = Holdings(0, 0, fetching=True), 0
        while time.monotonic() < deadline:
            self._raise_if_stopped()
            while more:
                more = next(publishing, _NO_MORE) is not _NO_MORE
            outbox = self._unfinished()
            held = self.broker.holdings(self._worker)
            self._state.left = held.queued + held.unacked + outbox
            if self._exited.is_set():
                if not self._state.left:
                    return ""
                self._start_worker()
                asked = False
            elif not (asked or self._state.left or held.fetching):
                self.template.terminate(self._pid)  # which may just have been killed at its last job
                asked = True
            self._state.landed = self.nemesis.landed
            self._show(self._state.state)
            self._exited.wait(POLL)
        doing = "gone" if self._exited.is_set() else "busy" if held.fetching else "idle"
        return f"not quiet in time: {held.queued} queued, {held.unacked} unacknowledged, {outbox} in the outbox, worker {doing}"

    def _raise_if_stopped(self) -> None:
        if self.stop.is_set():
            raise Stop

    # -- the history --------------------------------------------------------------------------------------------------

    def _note_fault(self, task_id: str, detail: dict[str, Any]) -> None:
        self._note(FAULT, task_id=task_id, pid=detail.get("pid"), detail=detail)

    def _row(self, kind: str, **fields: Any) -> Row:
        with self._note_lock:
            self._number += 1
            number = self._number
        task_id = fields.get("task_id", "")
        fields.setdefault("operation", self._operations.get(task_id, task_id))
        return Row(
            at=time.time(),
            kind=kind,
            source=f"{self.name}#{number}",
            pattern=self.cell.pattern,
            run=self.name,
            books=self.task.books if task_id else "",
            task=self.task.name if task_id else "",
            **fields,
        )

    def _note(self, kind: str, **fields: Any) -> None:
        store.append([self._row(kind, **fields)])

    def _show(self, state: str) -> None:
        self._state.state = state
        self.progress(self._state)
