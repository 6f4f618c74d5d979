"""Stock publishers and stock workers on the same queues, and a project without Django."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.integration.transport.ground import Ground, ground, template
from tests.support import PROJECT, until

__all__ = ["ground", "template"]
pytestmark = pytest.mark.timeout(120)


def test_stock_and_reliable_workers_and_publishers_share_a_queue(ground: Ground) -> None:
    stock = ground.launched("-P", "threads", "-c", "1", stock=True)
    ours = ground.worker("-P", "threads", "-c", "1")
    stock.await_ready()
    ground.publish("wait", "x", "y")
    until(lambda: len(ground.count("began")) == 2 and ground.redis.hlen("unacked") >= 2, "each has one job")
    ground.let_go("x", "y")
    for number in range(40):
        ground.publish("note", f"j{number}", stock=bool(number % 2))
    until(lambda: sum(ground.count("ran").values()) >= 42 and ground.nowhere, "all have run")
    assert set(ground.count("ran").values()) == {1}
    assert stock.said.count("succeeded") > 1
    assert ours.said.count("succeeded") > 1
    # Each answers to the other's control.
    for publisher in (True, False):
        pings = ground.app(stock=publisher).control.ping(timeout=3)
        assert len(pings) == 2, pings


def test_stock_worker_takes_over_after_the_visibility_timeout(ground: Ground) -> None:
    """The way back: what the last reliable worker held is in stock kombu's records."""
    victim = ground.worker(hold="fetched", prefetch=4)
    ground.publish("note", "a", "b")
    until(lambda: ground.books.llen("holding"), "the victim")
    victim.kill()
    eager = {"visibility_timeout": 1, "unacked_restore_interval": 0.2, "unacked_restore_throttle": 1}
    ground.worker("-P", "threads", "-c", "1", stock=True, **eager)
    until(lambda: ground.count("ran") == {"a": 1, "b": 1} and ground.nowhere, "the stock worker has run them")
    # And forward again: the dead owner holds nothing any more.
    ours = ground.worker()
    until(lambda: ground.owners().keys() == {ours.pid}, "the dead owner is forgotten")
    assert ground.count("ran") == {"a": 1, "b": 1}


def test_transport_needs_no_django() -> None:
    program = (
        "import sys; sys.modules['django'] = None\n"
        "import tasks_demo.transport\n"
        "from kombu import Connection\n"
        "print(Connection('reliable+redis://localhost').get_transport_cls().__module__)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "tasks_demo.transport.transport", done.stderr
