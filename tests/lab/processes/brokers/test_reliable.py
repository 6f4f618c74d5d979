"""Experiments on Redis by the reliable transport: nothing that a main process has fetched is lost."""

from __future__ import annotations

import json

import pytest

from tasks_demo.lab.plan.brokers import KINDS
from tasks_demo.lab.processes.brokers import connect
from tests.support import Home

pytestmark = pytest.mark.timeout(240)


def test_experiment_by_the_reliable_transport_loses_nothing_that_was_fetched(home: Home) -> None:
    """Stock kombu loses each victim here."""
    done = home.manage(
        "experiment", "--broker", "reliable", "--pattern", "acks_late", "--fault", "kill-main", "--point", "fetched",
        "--tasks", "4", "--kills", "2", "--seed", "1", "--json", "-", timeout=150,
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    [cell] = json.loads(done.out)["cells"]
    assert (cell["broker"], cell["publisher"], cell["as_predicted"]) == ("reliable", "direct", True)
    assert (cell["kills"]["landed"], cell["lost"], cell["effects"]["1"]) == (2, 0, 4)


@pytest.mark.parametrize(
    ("given", "redis", "kombu"),
    [
        ("reliable+redis://h:1/2", "redis://h:1/2", "reliable+redis://h:1/2"),
        ("reliable+socket:///s.sock", "unix:///s.sock", "reliable+socket:///s.sock"),
        ("unix:///s.sock", "unix:///s.sock", "reliable+socket:///s.sock"),
    ],
)
def test_addresses_of_the_reliable_transport(given: str, redis: str, kombu: str) -> None:
    broker = connect(KINDS["reliable"], given, "run")
    lane = broker.lane("cell", None)  # type: ignore[arg-type]
    assert (broker.url, lane.broker_url) == (redis, kombu)
    lane.close()
