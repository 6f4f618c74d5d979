"""Faults that hit no process of a worker: a lost response, a slow body, a double click, trouble of the broker. Their traces
show whether they were injected."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from amqp.exceptions import AMQPError
from django.db import connections, router

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.core.lifecycle import Point
from tasks_demo.demo.bank.client import BankClient, BankError
from tasks_demo.demo.shop.models import Booking
from tasks_demo.lab.engine.cell_run import CellRun
from tasks_demo.lab.engine.main_thread import MainThread
from tasks_demo.lab.engine.workers import Workers
from tasks_demo.lab.plan import timing
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.processes.brokers import Holdings
from tasks_demo.lab.processes.brokers.faulty import FaultyBroker, FaultyRedis
from tasks_demo.lab.processes.fault_report import FaultReport
from tasks_demo.lab.processes.nemesis import Nemesis
from tasks_demo.lab.processes.servers.postgres import PostgresServer
from tasks_demo.ledger.models import Event

_BANK_SECONDS = 10.0
#: Maximum time for messages of the outbox to be in the queue, and for a job to have begun, seconds.
_QUEUED_SECONDS, _BEGUN_SECONDS = 10.0, 30.0


class UnaimedFaults:
    """The unaimed fault of a cell; does nothing in other cells."""

    def __init__(self, run: CellRun, main_thread: MainThread) -> None:
        self._run = run
        self._main_thread = main_thread
        self._fault = run.cell.fault
        self._bank = BankClient(run.environment.bank_url, _BANK_SECONDS)
        #: Called when what happens once has begun.
        self._go_on: Callable[[], object] = lambda: None

    def inject(self) -> None:
        """Start a broker that will be killed, or the proxy before it; have the bank lose the responses to the victims.

        Raises EnvironmentNotReady if one of them does not do that.
        """
        if self._run.faulty_broker:
            self._start(self._run.faulty_broker)
        if self._run.proxy:
            self._run.proxy.start()
        if self._fault is not Fault.LOST_RESPONSE:
            return
        try:
            self._bank.set_fault(self._run.hex_name, "lose_response", references=list(self._run.victims), each=1)
        except BankError as error:
            raise EnvironmentNotReady(
                f"The bank at {self._run.environment.bank_url} does not lose responses on request: {error} Start it with "
                "`manage.py bank --faults`, or unset BANK_URL for one of the lab's own."
            ) from error

    def remove(self) -> None:
        """Have the bank answer as usual again."""
        if self._fault is Fault.LOST_RESPONSE:
            with contextlib.suppress(BankError):
                self._bank.remove_fault(self._run.hex_name)

    def inject_once(self, nemesis: Nemesis, workers: Workers, stop: threading.Event) -> None:
        """Do to the cell's broker or database what the fault is, when messages are queued. Starts workers that end meanwhile."""
        if not self._fault.once_per_cell:
            return
        lane = self._run.broker
        self._until(lambda: lane.holdings().queued, _QUEUED_SECONDS, stop)
        self._go_on, held_back = nemesis.released.set, bool(self._run.aimed)
        begun, why = nemesis.held.is_set if held_back else self._a_job_has_begun, ""
        if (self._fault.among_jobs or held_back) and not self._until(begun, _BEGUN_SECONDS, stop):
            why = "no job had begun"
        hit = self._kill_database if self._fault is Fault.DATABASE_KILL else self._hit_broker
        victim = "database" if self._fault is Fault.DATABASE_KILL else "broker"
        pid, held, died, problem = hit(workers, stop)
        why = why or problem or ("" if held.queued else "nothing was queued")
        for task_id in self._run.victims:
            report = FaultReport(what=str(self._fault), victim=victim, pid=pid, injected=not why, why=why, died=died)
            nemesis.report(task_id, report)

    def _hit_broker(self, workers: Workers, stop: threading.Event) -> tuple[int, Holdings, str, str]:
        """Return the server's pid, what it held, the signal that ended it, and why the fault did not happen."""
        broker = self._run.faulty_broker
        if isinstance(broker, FaultyRedis) and self._fault.outage:
            pid, held = broker.pid, broker.lane.holdings()
            why = broker.disturb(lambda seconds: self._outlast(seconds, workers, stop), timing.OUTAGE_SECONDS)
            return pid, held, "", why
        if isinstance(broker, FaultyRedis) and self._fault is Fault.BROKER_FLUSH:
            pid, held = broker.flush()
            self._go_on()
            return pid, held, "", ""
        if broker is None:
            raise TypeError("a cell with a fault of its broker has a broker of its own")
        pid, held = broker.kill()
        self._go_on()
        self._start(broker)
        if self._fault is Fault.BROKER_KILL:  # a queue is back a moment after its node
            self._until(lambda: _shows_messages(broker, workers.name), _QUEUED_SECONDS, stop)
        return pid, held, "SIGKILL", ""

    def _kill_database(self, workers: Workers, stop: threading.Event) -> tuple[int, Holdings, str, str]:
        server = self._run.environment.database
        if server is None or server.process is None:
            raise TypeError("a run with a fault of the database has a server of its own")
        pid, held = server.process.pid, self._run.broker.holdings()
        server.kill()
        connections[router.db_for_write(Booking)].close()  # this thread's own
        self._outlast(timing.OUTAGE_SECONDS, workers, stop)
        self._start(server)
        return pid, held, "SIGKILL", ""

    def _start(self, server: FaultyBroker | PostgresServer) -> None:
        self._main_thread.call(server.launch)
        server.await_ready()

    def _a_job_has_begun(self) -> bool:
        return Event.objects.filter(run=self._run.name, kind=Point.STARTED).exists()

    @staticmethod
    def _until(seen: Callable[[], object], seconds: float, stop: threading.Event) -> bool:
        deadline = time.monotonic() + seconds
        while not (found := bool(seen())) and time.monotonic() < deadline and not stop.wait(0.001):
            pass
        return found

    def _outlast(self, seconds: float, workers: Workers, stop: threading.Event) -> None:
        self._go_on()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not stop.wait(0.02):
            if workers.exited.is_set():
                workers.start()  # as a supervisor does

    def report(self, nemesis: Nemesis) -> None:
        """Report for each victim whether the fault was injected."""
        if self._fault not in {Fault.SLOW, Fault.LOST_RESPONSE, Fault.DOUBLE_PUBLISH}:
            return
        injected = self._traces()
        for task_id in self._run.victims:
            why = "" if task_id in injected else "it left no trace"
            nemesis.report(
                task_id, FaultReport(what=str(self._fault), victim="", injected=task_id in injected, why=why)
            )

    def _traces(self) -> set[str]:
        if self._fault is Fault.LOST_RESPONSE:
            return {task_id for task_id, hits in self._bank.fault_hits(self._run.hex_name).items() if hits}
        if self._fault is Fault.SLOW:
            return {task_id for task_id in self._run.victims if self._outlived_the_timeout(task_id)}
        return set(self._run.victims)  # both publications of a double click are in the history

    def _outlived_the_timeout(self, task_id: str) -> bool:
        """Whether the ledger shows a body that ran for longer than the visibility timeout."""
        events = Event.objects.filter(run=self._run.name, task_id=task_id, kind__in=[Point.STARTED, Point.EFFECT_DONE])
        started: dict[int | None, float] = {}
        for event in events.order_by("id"):
            if event.kind == Point.STARTED:
                started[event.pid] = event.at.timestamp()
            elif event.at.timestamp() - started.get(event.pid, event.at.timestamp()) > self._run.visibility_timeout:
                return True
        return False


def _shows_messages(broker: FaultyBroker, worker: str) -> bool:
    try:
        held = broker.lane.holdings(worker)
    except (OSError, AMQPError):
        broker.lane.disconnect()
        return False
    return bool(held.queued or held.unacked)
