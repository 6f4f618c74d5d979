"""The drain stops a worker only while it holds no message: otherwise Celery could lose the job."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks_demo.core.lifecycle import Point
from tasks_demo.lab.engine.cell_run import CellRun
from tasks_demo.lab.engine.draining import drain
from tasks_demo.lab.engine.publishing import Publisher
from tasks_demo.lab.engine.workers import Workers
from tasks_demo.lab.plan.cells import Cell
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.processes.brokers import Holdings
from tasks_demo.lab.processes.brokers.rabbitmq import RabbitLane
from tasks_demo.lab.processes.brokers.redis import RedisBroker
from tasks_demo.lab.processes.environment import Environment
from tasks_demo.lab.processes.nemesis import Nemesis
from tasks_demo.lab.processes.template import TemplateClient
from tests.integration.servers.rabbitmq import RabbitServer, rabbitmq
from tests.support import Home, until

__all__ = ["rabbitmq"]

#: How often the drain looks while main is held at ``fetched``.
LOOKS = 10


@pytest.fixture
def template(short: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[TemplateClient]:
    monkeypatch.setenv("STATE_DIR", str(home.state))
    monkeypatch.setenv("DATABASE_URL", home.database_url)
    if not home.database_url:
        monkeypatch.delenv("DATABASE_URL")
    client = TemplateClient(short / "template.log")
    client.wait_ready()
    yield client
    client.close()


class OneVhost:
    """RabbitMQ's lanes in the server's default virtual host: nobody else uses it, and none has to be made."""

    def __init__(self, server: RabbitServer) -> None:
        self.url = server.url

    def lane(self, name: str, folder: Path, /) -> RabbitLane:
        return RabbitLane(self.url, name, "classic", folder)


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("kind", ["redis", "rabbitmq-classic"])
def test_drain_does_not_stop_a_worker_that_has_fetched_a_message(
    short: Path, redis_url: str, template: TemplateClient, kind: str, request: pytest.FixtureRequest
) -> None:
    """Between BRPOP and its entry in ``unacked`` a message is in neither list, however often the drain looks. RabbitMQ tells
    nobody that the message is unacknowledged.
    """
    cell = Cell("acks_early", Fault.KILL_MAIN, "fetched", kind, 1, 1, 0, {0: Point.FETCHED})
    redis = RedisBroker(None, redis_url, uuid.uuid4().hex)
    server: Any = redis if kind == "redis" else OneVhost(request.getfixturevalue("rabbitmq"))
    run = CellRun(cell, uuid.uuid4().hex, Environment(redis, {cell.broker: server}, "", template, short), short)
    broker, [task_id] = run.broker, run.victims
    nemesis = Nemesis(
        short / "n.sock", cell.fault, run.aimed, on_fault=lambda *_: None, on_ready=lambda pid: None,
        precondition=lambda *_: "the test has not let it go",
    )  # fmt: skip
    workers = Workers(run, nemesis)
    looks: list[Holdings] = []

    def look(left: int) -> None:
        if len(looks) == LOOKS:
            return
        looks.append(broker.holdings(workers.name))
        if len(looks) == LOOKS:
            nemesis.close()  # lets main continue

    Publisher(run, workers, threading.Event()).publish(nemesis.report)
    workers.start()
    until(lambda: nemesis.reached, "main at the point")
    said = drain(
        workers, broker, unfinished=lambda: 0, deadline=time.monotonic() + 60, stop=threading.Event(), progress=look
    )
    unacked = int(kind != "redis")  # its worker has counted it
    assert looks[: LOOKS - 1] == [Holdings(queued=0, unacked=unacked, moving=True)] * (LOOKS - 1)
    assert (said, workers.name.split("@")[0]) == ("", "w1"), "the job was forgotten, and another worker had to do it"
    output = next(short.glob("acks_early-*.log")).read_text()
    assert output.count(f"[{task_id}] received") == 1
    assert "Warm shutdown" in output.split(f"[{task_id}] received")[1], (
        "it was stopped before it had recorded the message"
    )
    broker.purge()
    broker.close()


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("started", [True, False])
def test_drain_after_its_deadline_goes_on_while_fewer_messages_are_left(
    short: Path, redis_url: str, template: TemplateClient, started: bool
) -> None:
    cell = Cell("acks_early", Fault.NONE, "", "redis", 1, 4, 0, {})
    redis = RedisBroker(None, redis_url, uuid.uuid4().hex)
    run = CellRun(cell, uuid.uuid4().hex, Environment(redis, {"redis": redis}, "", template, short), short)
    nemesis = Nemesis(short / "n.sock", cell.fault, {}, on_fault=lambda *_: None, on_ready=lambda pid: None)
    workers = Workers(run, nemesis)
    Publisher(run, workers, threading.Event()).publish(nemesis.report)
    if started:
        workers.start()
    said = drain(
        workers,
        run.broker,
        unfinished=lambda: 0,
        deadline=time.monotonic(),
        stop=threading.Event(),
        progress=lambda _: None,
        patience=30.0 if started else 0.2,
    )
    assert said == ("" if started else "not quiet in time: 4 queued, 0 unacknowledged, 0 in the outbox, worker busy")
    nemesis.close()
    run.broker.purge()
    run.broker.close()
