"""Publishes the jobs of a cell: to the broker, through the outbox with a relay of its own, or by publishers that are killed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import kombu.exceptions
from celery import current_app
from django.db import connections, router, transaction
from django.db.models import Q

from tasks_demo import outbox
from tasks_demo.demo.shop.models import Order
from tasks_demo.lab.engine.cell_run import CellRun
from tasks_demo.lab.engine.disturbed_publishing import DisturbedPublishing
from tasks_demo.lab.engine.hostile_messages import HostileMessages
from tasks_demo.lab.engine.load import Load
from tasks_demo.lab.engine.workers import Workers
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.jobs import Job
from tasks_demo.lab.processes.fault_report import FaultReport
from tasks_demo.lab.processes.specs import Publication
from tasks_demo.ledger.events import EventData
from tasks_demo.ledger.store import store
from tasks_demo.outbox.relay import Relay
from tasks_demo.records.models import OutboxMessage, Parked

#: Header by which a lane finds its own messages in the outbox that all lanes of a run share.
RUN_HEADER = "tasks_demo_run"
_RELAY_INTERVAL = 0.05
_BATCH = 100


class Stop(Exception):
    """The run is being interrupted."""


class Publisher:
    """Publishes the jobs of one cell and records each publication with its outcome.

    The outcome is ``ok`` (confirmed), ``fail`` (refused) or ``info`` (the answer was lost: the broker may have the message).
    A job whose publication was disturbed is published again after ``info``, with the same task ID.
    ``confirmed``: how many were ``ok``. ``stop``: set when the run is interrupted.
    """

    def __init__(self, run: CellRun, workers: Workers, stop: threading.Event) -> None:
        self.confirmed = 0
        self._run = run
        self._workers = workers
        self._stop = stop
        self.hostile = HostileMessages(run, workers, stop)
        self._disturbed = DisturbedPublishing(run, stop)
        self._headers = {RUN_HEADER: run.name}
        self._rows = Q(**{f"options__headers__{RUN_HEADER}": run.name})
        self._to_outbox = run.cell.publisher == "outbox"
        self._route: dict[str, Any] = {}
        if run.broker.queue is not None:
            current_app.amqp.queues.add(run.broker.queue)
            self._route = {"queue": run.broker.queue.name}

    def publish(self, report: Callable[[str, FaultReport], None], load: Load | None = None) -> None:
        """Publish every job, as fast as ``load`` allows, and ``report`` what became of the hostile messages and the disturbed
        publications among them.

        Raises Stop when the run is interrupted; what was published until then is recorded.
        """
        run, cell = self._run, self._run.cell
        killed = cell.victims if cell.fault is Fault.PUBLISHER_CRASH else {}
        rows: list[EventData] = []
        try:
            with current_app.connection_for_write(
                run.publisher_url, transport_options=run.transport_options()
            ) as connection:
                producer = connection.Producer()
                for index, job in enumerate(run.jobs):
                    if load is not None:
                        load.before(index, self._unpublished)
                    self.hostile.put_before(index, producer)
                    for task_id in job.task_ids:
                        if self._stop.is_set():
                            raise Stop
                        if index in killed:
                            outcome = self._by_killed_publisher(task_id, job.kwargs)
                        else:
                            with self._disturbed.publication(task_id) as disturbed:
                                outcome = self._hand_over(task_id, job, producer)
                            if disturbed:
                                report(task_id, disturbed())
                            if disturbed and outcome["outcome"] == "info":
                                rows.append(run.row("published", task_id=task_id, detail=outcome))
                                outcome = self._hand_over(task_id, job, producer, again=True)
                        self.confirmed += outcome["outcome"] == "ok"
                        rows.append(run.row("published", task_id=task_id, detail=outcome))
                    if len(rows) >= _BATCH or self._to_outbox:
                        store.append(rows)
                        rows = []
                    if (ended := self.hostile.report_after(index)) is not None:
                        report(job.task_ids[0], ended)
        finally:
            store.append(rows)

    def _hand_over(self, task_id: str, job: Job, producer: Any, *, again: bool = False) -> dict[str, str]:
        return self._by_outbox(task_id, job) if self._to_outbox else self._by_broker(task_id, job, producer, again)

    def _by_broker(self, task_id: str, job: Job, producer: Any, again: bool) -> dict[str, str]:
        """``again``: on a new connection, if the one it had is broken."""
        try:
            self._run.task.apply_async(
                job.args,
                job.kwargs,
                task_id=task_id,
                producer=producer,
                ignore_result=self._run.control is None or not self._run.control.keeps_results,
                retry=again,
                **self._route,
            )
        except kombu.exceptions.OperationalError:
            return {"outcome": "info"}
        return {"outcome": "ok"}

    def _by_outbox(self, task_id: str, job: Job) -> dict[str, str]:
        """The commit of order and message is the hand-over that the customer was promised."""
        demo = self._run.cell.project_task is None
        using = router.db_for_write(Order if demo else OutboxMessage)
        with transaction.atomic(using=using):
            if demo:
                Order.objects.create(task_id=task_id, customer=job.kwargs["customer"], amount=job.kwargs["amount"])
            outbox.enqueue(
                self._run.task, job.args, job.kwargs, task_id=task_id, using=using, headers=self._headers, **self._route
            )
        return {"outcome": "ok", "by": "commit"}

    def _by_killed_publisher(self, task_id: str, kwargs: dict[str, Any]) -> dict[str, str]:
        """A process commits the order and is killed before it publishes; the commit has promised the charge."""
        cell = self._run.cell
        self._workers.publish_and_die(
            Publication(cell.pattern, task_id, kwargs, self._headers, cell.publisher, self._route)
        )
        committed = Order.objects.filter(task_id=task_id).exists()
        return {"outcome": "ok" if committed else "fail", "by": "commit"}

    @contextlib.contextmanager
    def relaying(self) -> Iterator[None]:
        """Run a relay for this lane's messages, if it publishes through the outbox."""
        if not self._to_outbox:
            yield
            return
        stop = threading.Event()
        relay = Relay(interval=_RELAY_INTERVAL, only=self._rows, connect=self._connect)
        thread = threading.Thread(target=self._relay, args=(relay, stop), name="relay")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _connect(self, options: dict[str, Any]) -> Any:
        options = {**options, **self._run.transport_options()}
        return current_app.connection_for_write(self._run.publisher_url, transport_options=options)

    @staticmethod
    def _relay(relay: Relay, stop: threading.Event) -> None:
        try:
            relay.run(stop)
        finally:
            connections.close_all()

    def _unpublished(self) -> int:
        """Number of this lane's outbox messages that the relay has not published."""
        return OutboxMessage.objects.filter(self._rows, published_at=None).count() if self._to_outbox else 0

    def unfinished(self) -> int:
        """Number of this lane's outbox messages that no worker has reported as done; parked ones are not counted."""
        if not self._to_outbox:
            return 0
        parked = Parked.objects.filter(state=Parked.State.PARKED).values("task_id")
        return OutboxMessage.objects.filter(self._rows, finished_at=None).exclude(task_id__in=parked).count()
