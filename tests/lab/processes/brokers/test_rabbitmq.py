"""Experiments on RabbitMQ: as predicted, in a virtual host of their own, and nothing is left."""

from __future__ import annotations

import json
import threading
from typing import Any

import kombu
import pytest
from kombu.transport.native_delayed_delivery import (
    MAX_LEVEL,
    bind_queue_to_native_delayed_delivery_exchange,
    calculate_routing_key,
    declare_native_delayed_delivery_exchanges_and_queues,
    level_name,
)

from tasks_demo.lab.engine.draining import left_over
from tasks_demo.lab.plan.brokers import KINDS
from tasks_demo.lab.processes.brokers.rabbitmq import RabbitBroker
from tasks_demo.lab.processes.databases import remove_leftovers
from tests.integration.servers.rabbitmq import RabbitServer, rabbitmq
from tests.support import Finished, Home, together, until

__all__ = ["rabbitmq"]

pytestmark = pytest.mark.timeout(240)

#: At ``fetched`` Redis loses; the retries after a lost response are delayed, by RabbitMQ itself where its queues are quorum.
EXPERIMENTS = {
    "quorum": ("--pattern", "acks_late", "--fault", "kill-main", "lost-response", "--point", "fetched"),
    "classic": ("--pattern", "acks_late", "--fault", "kill-main", "--point", "fetched", "acking"),
}


def test_experiments_on_rabbitmq_lose_nothing_that_was_fetched(home: Home, rabbitmq: RabbitServer) -> None:
    def experiment(queue: str) -> Finished:
        return home.manage(
            "experiment", "--broker", rabbitmq.url, "--queue", queue, *EXPERIMENTS[queue], "--tasks", "4", "--kills", "2",
            "--seed", "1", "--json", "-", env=rabbitmq.for_rabbitmqctl, timeout=150,
        )  # fmt: skip

    ran = dict(zip(EXPERIMENTS, together([lambda q=queue: experiment(q) for queue in EXPERIMENTS], 2), strict=True))  # type: ignore[misc]
    for queue, done in ran.items():
        assert done.code == 0, done.out + done.err
        cells: list[dict[str, Any]] = json.loads(done.out)["cells"]
        assert {cell["broker"] for cell in cells} == {f"rabbitmq-{queue}"}
        assert "guest" not in done.out
        (fetched,) = [cell for cell in cells if (cell["pattern"], cell["point"]) == ("acks_late", "fetched")]
        assert (fetched["kills"]["landed"], fetched["lost"], fetched["effects"]["1"]) == (2, 0, 4)
    assert rabbitmq.vhosts() == {"/"}


def test_leftovers_of_a_killed_run_go_with_its_virtual_host(
    rabbitmq: RabbitServer, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in rabbitmq.for_rabbitmqctl.items():
        monkeypatch.setenv(name, value)
    dead = RabbitBroker(KINDS["rabbitmq-quorum"], rabbitmq.url, "dead")
    dead.prepare()
    assert rabbitmq.vhosts() == {"/", "lab:dead"}
    shown = rabbitmq.url.replace("guest:guest", "***")
    (tmp_path / "x" / "scratch").mkdir(parents=True)
    (tmp_path / "x" / "scratch" / "leftovers.json").write_text(json.dumps({"servers": [shown], "run": "dead"}))
    remove_leftovers(tmp_path, RabbitBroker(KINDS["rabbitmq-classic"], rabbitmq.url, "new"))
    assert rabbitmq.vhosts() == {"/"}
    assert not (tmp_path / "x" / "scratch").exists()


def test_delayed_message_is_left_over_in_its_own_cell_only(
    rabbitmq: RabbitServer, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in rabbitmq.for_rabbitmqctl.items():
        monkeypatch.setenv(name, value)
    broker = RabbitBroker(KINDS["rabbitmq-quorum"], rabbitmq.url, "two")
    broker.prepare()
    mine, other = lanes = [broker.lane(name, tmp_path) for name in ("mine", "other")]
    with kombu.Connection(mine.broker_url, transport_options={"confirm_publish": True}) as connection:
        declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
        for lane in lanes:
            lane.queue.bind(connection.channel()).declare()
            bind_queue_to_native_delayed_delivery_exchange(connection, lane.queue)
        connection.Producer().publish({}, exchange=level_name(MAX_LEVEL), routing_key=calculate_routing_key(2, "mine"))
    try:
        until(lambda: other.holdings().queued, "the delayed message, which every cell sees")
        assert left_over(other, threading.Event()).queued == 0
        assert left_over(mine, threading.Event(), 0.1).queued == 1
    finally:
        for lane in lanes:
            lane.close()
        broker.remove("two")
