"""Workers that are killed, stopped or cut off: nothing is lost, and a survivor goes on within a second or so."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from tests.integration.transport.plain_workers import GEVENT, Environment, environment, template
from tests.support import until

__all__ = ["environment", "template"]
pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("point", ["claimed", "fetched", "acking"])
def test_worker_killed_at_a_point_loses_nothing(environment: Environment, point: str) -> None:
    survivor = environment.launched("-c", "1", "-Q", "later", heartbeat_timeout=60)
    victim = environment.worker("-P", "solo", hold=point, prefetch=4, heartbeat_timeout=60)
    environment.publish("note", "a", "b", "c")
    until(lambda: environment.books.llen("holding"), f"the victim at {point}")
    survivor.await_ready()
    held = environment.owners()[victim.pid].held
    assert held >= 1
    victim.kill()
    until(
        lambda: environment.owners().keys() == {survivor.pid}, "the death is noticed, long before the heartbeat's 60 s"
    )
    assert environment.redis.llen("celery") == 3
    # First in line, in the order of publication, and marked.
    environment.app().control.add_consumer("celery", reply=False)
    until(lambda: sum(environment.count("ran").values()) >= 3 and environment.nowhere, "the survivor has run them")
    assert set(environment.count("ran")) == {"a", "b", "c"}
    assert max(environment.count("ran").values()) == (2 if point == "acking" else 1)


def test_worker_killed_while_its_child_goes_on_is_noticed_by_its_connection(environment: Environment) -> None:
    """The child holds no copy of the socket that shows that its parent lives."""
    survivor = environment.launched("-P", "solo", "-Q", "later", heartbeat_timeout=60)
    victim = environment.worker("-c", "1", heartbeat_timeout=60)
    environment.publish("wait_alone", "a")
    until(lambda: environment.count("began"), "the job in the child")
    survivor.await_ready()
    child = int(environment.books.get("pid:a"))
    try:
        victim.kill()
        until(
            lambda: environment.owners().keys() == {survivor.pid},
            "the death is noticed, long before the heartbeat's 60 s",
        )
        assert psutil.Process(child).status() != psutil.STATUS_ZOMBIE, "it was to go on"
    finally:
        os.kill(child, signal.SIGKILL)
    assert environment.redis.llen("celery") == 1


@pytest.mark.parametrize("pool", [pytest.param(("-P", "solo"), id="solo"), GEVENT])
def test_worker_stopped_beyond_its_heartbeat_is_fenced(environment: Environment, pool: tuple[str, ...]) -> None:
    victim = environment.worker(*pool, heartbeat_timeout=3, heartbeat_interval=0.25)
    environment.publish("wait", "a")
    until(lambda: environment.count("began"), "the job")
    survivor = environment.worker("-P", "solo", heartbeat_interval=0.25)
    os.kill(victim.pid, signal.SIGSTOP)
    until(lambda: environment.owners().keys() == {survivor.pid}, "it is declared dead")
    until(lambda: environment.count("began")["a"] == 2, "the survivor has the job")
    os.kill(victim.pid, signal.SIGCONT)
    environment.release("a")
    until(lambda: environment.count("ran")["a"] == 2, "both have run it")
    until(lambda: "acknowledgement was refused" in victim.said, "the late acknowledgement is refused")
    until(lambda: environment.nowhere, "the survivor's acknowledgement")
    # It starts again under a new name, and works.
    until(lambda: victim.pid in environment.owners(), "the victim is back")
    survivor.stop(10)
    environment.publish("note", "b")
    until(lambda: environment.count("ran")["b"] == 1, "the next job")


def test_last_worker_killed_leaves_its_messages_to_the_next(environment: Environment) -> None:
    victim = environment.worker("-P", "solo", hold="fetched", prefetch=4)
    environment.publish("note", "a", "b")
    until(lambda: environment.books.llen("holding"), "the victim")
    victim.kill()
    environment.worker("-P", "solo")
    until(lambda: environment.count("ran") == {"a": 1, "b": 1} and environment.nowhere, "the next worker has run them")
    assert "is dead: its connection is gone" in "".join(path.read_text() for path in environment.logs())
