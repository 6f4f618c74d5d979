"""Experiments on Redis by celery-redis-plus, where it is installed; elsewhere it is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tasks_demo.lab.plan.brokers import KINDS
from tasks_demo.lab.processes.brokers import connect
from tasks_demo.lab.processes.brokers.redis_plus import RedisPlusLane
from tests.integration.servers.redis import BINARIES, RedisServer
from tests.support import Home

pytestmark = pytest.mark.timeout(400)

INSTALLED = sys.version_info >= (3, 13) and find_spec("celery_redis_plus") is not None


@pytest.mark.skipif(INSTALLED, reason="celery-redis-plus is installed")
def test_redis_plus_is_refused_where_it_is_not_installed(home: Home) -> None:
    done = home.manage("experiment", "--broker", "redis-plus", "--pattern", "acks_late", "--fault", "none", timeout=120)
    assert done.code == 4, done.out + done.err
    assert "celery-redis-plus, which is not installed here. It needs Python 3.13" in done.err


def test_fault_of_the_broker_is_refused_because_the_lab_has_no_redis_7(home: Home) -> None:
    done = home.manage("experiment", "--broker", "redis-plus", "--fault", "broker-flush", "--plan")
    assert done.code == 2, done.out + done.err
    assert "broker-flush would do nothing on redis-plus: the lab kills only servers that it starts." in done.err


@pytest.mark.parametrize(
    ("given", "redis", "kombu"),
    [
        ("redis-plus://u:p@h:1/2", "redis://u:p@h:1/2", "redis-plus://u:p@h:1/2"),
        ("redis-plus+socket:///s.sock", "unix:///s.sock", "redis-plus+socket:///s.sock"),
        ("unix:///s.sock", "unix:///s.sock", "redis-plus+socket:///s.sock"),
    ],
)
def test_addresses_of_redis_plus(given: str, redis: str, kombu: str) -> None:
    broker = connect(KINDS["redis-plus"], given, "run")
    lane = broker.lane("cell", None)  # type: ignore[arg-type]
    assert (broker.url, lane.broker_url) == (redis, kombu)
    lane.close()


@pytest.fixture
def redis_7(short: Path) -> Iterator[str]:
    if BINARIES["system"] is None:
        pytest.skip("no redis-server on this system, and the embedded one is 6.2")
    with RedisServer(short, BINARIES["system"]) as server:
        yield server.url.replace("unix://", "redis-plus+socket://")


@pytest.mark.skipif(not INSTALLED, reason="celery-redis-plus, which needs Python 3.13, is not installed")
def test_experiment_by_celery_redis_plus_loses_nothing_that_was_fetched(home: Home, redis_7: str) -> None:
    """Stock kombu loses each victim here. The last one waits for the next sweep, up to 60 s."""
    done = home.manage(
        "experiment", "--broker", redis_7, "--pattern", "acks_late", "--fault", "kill-main", "--point", "fetched",
        "--tasks", "4", "--kills", "2", "--seed", "1", "--json", "-", timeout=300,
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    result = json.loads(done.out)
    [cell] = result["cells"]
    assert (cell["broker"], cell["publisher"], cell["as_predicted"]) == ("redis-plus", "direct", True)
    assert (cell["kills"]["landed"], cell["lost"], cell["effects"]["1"]) == (2, 0, 4)
    assert result["versions"]["celery-redis-plus"]


def test_message_that_ended_its_worker_is_taken_out_before_it_ends_the_next(redis_7: str) -> None:
    lane = connect(KINDS["redis-plus"], redis_7, "run").lane("cell", None)  # type: ignore[arg-type]
    assert isinstance(lane, RedisPlusLane)
    lane.put(b"[]")
    assert lane.holdings().queued == 1
    lane.client.zpopmin(f"{lane.prefix}queue:celery")
    assert lane.holdings().unacked == 1, "its worker has it"
    assert (lane.withdraw(), lane.withdraw()) == (True, False)
    assert list(lane.client.scan_iter(match=f"{lane.prefix}*")) == []
    lane.close()


@pytest.mark.skipif(not INSTALLED, reason="celery-redis-plus, which needs Python 3.13, is not installed")
def test_hostile_messages_by_celery_redis_plus_are_accounted_for(home: Home, redis_7: str) -> None:
    done = home.manage(
        "experiment", "--broker", redis_7, "--pattern", "acks_late", "--fault", "hostile", "--tasks", "5", "--kills", "4",
        "--seed", "1", timeout=300,
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    assert "non-json: it ended the worker, and is delivered again (the lab took it out)" in done.out
