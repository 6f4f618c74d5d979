"""Behind Sentinel: the workers follow a failover, and what the replica had is neither lost nor handed out twice."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import kombu.exceptions
import pytest
import redis

from tasks_demo.transport import list_owners
from tests.integration.servers.redis import EMBEDDED, RedisServer
from tests.integration.servers.sentinel import ENCODED, Servers
from tests.integration.transport.plain_workers import Environment, template
from tests.support import until

__all__ = ["template"]
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def servers() -> Iterator[Servers]:
    with contextlib.ExitStack() as stack:
        yield Servers(stack, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="failover-"))))


@pytest.fixture
def environment(servers: Servers, tmp_path: Path, template: subprocess.Popen[str]) -> Iterator[Environment]:
    """The books are in a server of their own, which nobody kills."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="books-")))
        books = stack.enter_context(RedisServer(folder, EMBEDDED))
        broker = f"reliable+sentinel://:{ENCODED}@127.0.0.1:{servers.sentinel}/0"
        yield Environment(books, books, tmp_path, stack, template, broker, master_name="mymaster")


def published(environment: Environment, word: str) -> bool:
    with contextlib.suppress(kombu.exceptions.OperationalError, redis.RedisError):
        environment.publish("note", word, retry=False)
        return True
    return False


def test_worker_keeps_what_it_holds_when_the_primary_is_killed(servers: Servers, environment: Environment) -> None:
    worker = environment.worker("-P", "threads", "-c", "1", prefetch=2)
    environment.publish("wait", "running", "prefetched")
    first, second = servers.client(servers.first), servers.client(servers.second)
    # A claim that the replica has not seen is lost.
    until(
        lambda: environment.count("began") and [it.held for it in list_owners(first)] == [2],
        "one runs, one is prefetched",
    )
    first.set("marker", 1)
    first.wait(1, 5000)
    servers.kill_primary()
    until(lambda: published(environment, "after"), "a publication to the new primary")
    environment.release("running", "prefetched")
    until(lambda: environment.count("ran").keys() == {"running", "prefetched", "after"}, "all have run")
    until(lambda: not (second.llen("celery") or second.hlen("unacked")), "all are acknowledged")
    assert set(environment.count("ran").values()) == {1}
    assert [owner.pid for owner in list_owners(second) if not owner.dead] == [worker.pid]
