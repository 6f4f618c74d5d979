"""Stock publishers and stock workers on the same queues, and a project without Django."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.integration.transport.plain_workers import Environment, environment, template
from tests.support import PROJECT, until

__all__ = ["environment", "template"]
pytestmark = pytest.mark.timeout(120)


def test_stock_and_reliable_workers_and_publishers_share_a_queue(environment: Environment) -> None:
    stock = environment.launched("-P", "threads", "-c", "1", stock=True)
    ours = environment.worker("-P", "threads", "-c", "1")
    stock.await_ready()
    for words in (("x", "y"), ("v", "w")):  # each worker runs one at a time, and so gets one of both publishers
        for word, publisher in zip(words, (True, False), strict=True):
            environment.publish("wait", word, stock=publisher)
        until(lambda both=words: environment.count("began").keys() >= set(both), "each has one job")  # type: ignore[misc]
        environment.release(*words)
    for number in range(40):
        environment.publish("note", f"j{number}", stock=bool(number % 2))
    until(lambda: sum(environment.count("ran").values()) >= 44 and environment.nowhere, "all have run")
    assert set(environment.count("ran").values()) == {1}
    assert stock.said.count("succeeded") > 1
    assert ours.said.count("succeeded") > 1
    # Each answers to the other's control.
    for publisher in (True, False):
        pings = environment.app(stock=publisher).control.ping(timeout=30, limit=2)
        assert len({name for ping in pings for name in ping}) == 2, pings


def test_stock_worker_takes_over_after_the_visibility_timeout(environment: Environment) -> None:
    """The way back: what the last reliable worker held is in stock kombu's records."""
    victim = environment.worker(hold="fetched", prefetch=4)
    environment.publish("note", "a", "b")
    until(lambda: environment.books.llen("holding"), "the victim")
    victim.kill()
    for token in environment.redis.zrange("unacked_index", 0, -1):
        environment.redis.zadd(
            "unacked_index", {token: 1}
        )  # claimed long ago: overdue, as no job of the stock worker ever is
    eager = {"visibility_timeout": 600, "unacked_restore_interval": 0.2, "unacked_restore_throttle": 1}
    environment.worker("-P", "threads", "-c", "1", stock=True, **eager)
    until(lambda: environment.count("ran") == {"a": 1, "b": 1} and environment.nowhere, "the stock worker has run them")
    # And forward again: the dead owner holds nothing any more.
    ours = environment.worker()
    until(lambda: environment.owners().keys() == {ours.pid}, "the dead owner is forgotten")
    assert environment.count("ran") == {"a": 1, "b": 1}


def test_transport_needs_no_django() -> None:
    program = (
        "import sys; sys.modules['django'] = None\n"
        "import tasks_demo.transport\n"
        "from kombu import Connection\n"
        "print(Connection('reliable+redis://localhost').get_transport_cls().__module__)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "tasks_demo.transport.transport", done.stderr
