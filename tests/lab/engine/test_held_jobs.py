"""A fault of the broker that needs queued jobs finds them, however fast the worker is: jobs are held at their start."""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path

import pytest

from tasks_demo.lab.engine.cell_run import CellRun
from tasks_demo.lab.engine.draining import drain
from tasks_demo.lab.engine.main_thread import MainThread
from tasks_demo.lab.engine.publishing import Publisher
from tasks_demo.lab.engine.unaimed_faults import UnaimedFaults
from tasks_demo.lab.engine.workers import Workers
from tasks_demo.lab.plan.cells import plan
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.processes.brokers import Holdings
from tasks_demo.lab.processes.brokers.redis import RedisBroker
from tasks_demo.lab.processes.environment import Environment
from tasks_demo.lab.processes.fault_report import FaultReport
from tasks_demo.lab.processes.nemesis import Nemesis
from tasks_demo.lab.processes.template import TemplateClient
from tests.lab.engine.test_draining import template
from tests.support import until

__all__ = ["template"]

JOBS = 6


@pytest.mark.usefixtures("ledger")
def test_worker_does_not_empty_the_queue_before_the_broker_is_emptied(
    short: Path, redis_url: str, bank_url: str, template: TemplateClient
) -> None:
    [cell] = plan(
        patterns=["acks_late"], faults=[Fault.BROKER_FLUSH], points=[], brokers=["redis"], seed=1, tasks=JOBS, kills=1, work_ms=0
    )  # fmt: skip
    redis = RedisBroker(None, redis_url, uuid.uuid4().hex)
    run = CellRun(cell, uuid.uuid4().hex, Environment(redis, {"redis": redis}, bank_url, template, short), short)
    assert run.faulty_broker is not None
    reports: list[FaultReport] = []
    stop = threading.Event()
    run.faulty_broker.launch()
    run.faulty_broker.await_ready()
    nemesis = Nemesis(
        short / "n.sock", cell.fault, run.aimed, on_fault=lambda _, report: reports.append(report), on_ready=lambda _: None
    )  # fmt: skip
    workers = Workers(run, nemesis)
    try:
        workers.start()
        Publisher(run, workers, stop).publish(nemesis.report)
        # The worker has all the time that it wants: it is at its first job, or done with all of them.
        until(
            lambda: nemesis.reached or run.broker.holdings(workers.name) == Holdings(0, 0, moving=False),
            "the worker at work",
            60,
        )
        UnaimedFaults(run, MainThread()).inject_once(nemesis, workers, stop)
        assert [(report.injected, report.why) for report in reports] == [(True, "")]
        left = drain(
            workers, run.broker, unfinished=lambda: 0, deadline=time.monotonic() + 60, stop=stop, progress=lambda _: None
        )  # fmt: skip
        assert left == "", "a job that was held has not gone on"
    finally:
        nemesis.close()
        template.close()
        run.faulty_broker.stop()
