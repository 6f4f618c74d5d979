"""Workers that are killed, stopped or cut off: nothing is lost, and a survivor goes on within a second or so."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from tests.integration.transport.ground import GEVENT, Ground, ground, template
from tests.support import until

__all__ = ["ground", "template"]
pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("point", ["claimed", "fetched", "acking"])
def test_worker_killed_at_a_point_loses_nothing(ground: Ground, point: str) -> None:
    survivor = ground.launched("-c", "1", "-Q", "later", heartbeat_timeout=60)
    victim = ground.worker("-P", "solo", hold=point, prefetch=4, heartbeat_timeout=60)
    ground.publish("note", "a", "b", "c")
    until(lambda: ground.books.llen("holding"), f"the victim at {point}")
    survivor.await_ready()
    held = ground.owners()[victim.pid].held
    assert held >= 1
    victim.kill()
    until(lambda: ground.owners().keys() == {survivor.pid}, "the death is noticed, long before the heartbeat's 60 s")
    assert ground.redis.llen("celery") == 3
    # First in line, in the order of publication, and marked.
    ground.app().control.add_consumer("celery", reply=False)
    until(lambda: sum(ground.count("ran").values()) >= 3 and ground.nowhere, "the survivor has run them")
    assert set(ground.count("ran")) == {"a", "b", "c"}
    assert max(ground.count("ran").values()) == (2 if point == "acking" else 1)


def test_worker_killed_while_its_child_goes_on_is_noticed_by_its_connection(ground: Ground) -> None:
    """The child holds no copy of the socket that shows that its parent lives."""
    survivor = ground.launched("-P", "solo", "-Q", "later", heartbeat_timeout=60)
    victim = ground.worker("-c", "1", heartbeat_timeout=60)
    ground.publish("wait_alone", "a")
    until(lambda: ground.count("began"), "the job in the child")
    survivor.await_ready()
    child = int(ground.books.get("pid:a"))
    try:
        victim.kill()
        until(
            lambda: ground.owners().keys() == {survivor.pid}, "the death is noticed, long before the heartbeat's 60 s"
        )
        assert psutil.Process(child).status() != psutil.STATUS_ZOMBIE, "it was to go on"
    finally:
        os.kill(child, signal.SIGKILL)
    assert ground.redis.llen("celery") == 1


@pytest.mark.parametrize("pool", [pytest.param(("-P", "solo"), id="solo"), GEVENT])
def test_worker_stopped_beyond_its_heartbeat_is_fenced(ground: Ground, pool: tuple[str, ...]) -> None:
    victim = ground.worker(*pool, heartbeat_timeout=3, heartbeat_interval=0.25)
    ground.publish("wait", "a")
    until(lambda: ground.count("began"), "the job")
    survivor = ground.worker("-P", "solo", heartbeat_interval=0.25)
    os.kill(victim.pid, signal.SIGSTOP)
    until(lambda: ground.owners().keys() == {survivor.pid}, "it is declared dead")
    until(lambda: ground.count("began")["a"] == 2, "the survivor has the job")
    os.kill(victim.pid, signal.SIGCONT)
    ground.let_go("a")
    until(lambda: ground.count("ran")["a"] == 2, "both have run it")
    until(lambda: "acknowledgement was refused" in victim.said, "the late acknowledgement is refused")
    until(lambda: ground.nowhere, "the survivor's acknowledgement")
    # It starts again under a new name, and works.
    until(lambda: victim.pid in ground.owners(), "the victim is back")
    survivor.stop(10)
    ground.publish("note", "b")
    until(lambda: ground.count("ran")["b"] == 1, "the next job")


def test_last_worker_killed_leaves_its_messages_to_the_next_one(ground: Ground) -> None:
    victim = ground.worker("-P", "solo", hold="fetched", prefetch=4)
    ground.publish("note", "a", "b")
    until(lambda: ground.books.llen("holding"), "the victim")
    victim.kill()
    ground.worker("-P", "solo")
    until(lambda: ground.count("ran") == {"a": 1, "b": 1} and ground.nowhere, "the next worker has run them")
    assert "is dead: its connection is gone" in "".join(path.read_text() for path in ground.logs())
