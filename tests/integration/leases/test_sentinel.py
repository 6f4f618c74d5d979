"""Redis failover with a real primary, replica and sentinel: leases work again within seconds, with either kind of address."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tasks_demo.core.exceptions import LeaseStoreUnavailable
from tasks_demo.leases.protocol import Claimed, Completed, Held
from tasks_demo.leases.redis_client import connect
from tasks_demo.leases.redis_store import RedisLeaseStore
from tests.integration.servers.sentinel import ENCODED, Servers
from tests.support import until

DIGEST = "d" * 64
BOUND_SECONDS = 20.0


@pytest.fixture
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="failover-")))
        yield Servers(stack, folder)


def store_at(url: str) -> RedisLeaseStore:
    return RedisLeaseStore(connect(url, 1.0), "t:", 30, 3600)


def claims(store: RedisLeaseStore, operation: str) -> bool:
    try:
        return isinstance(store.claim(operation, DIGEST), Claimed | Held)
    except LeaseStoreUnavailable:
        return False


@pytest.mark.parametrize(
    "spelling",
    [
        "sentinel://:{p}@127.0.0.1:{s},127.0.0.1:1/0?master=mymaster",
        "sentinel://:{p}@127.0.0.1:1;sentinel://:{p}@127.0.0.1:{s}/0?master=mymaster",
    ],
)
def test_sentinel_behind_sentinels_the_killed_primary_is_left_for_the_new_one(servers: Servers, spelling: str) -> None:
    store = store_at(spelling.format(p=ENCODED, s=servers.sentinel))
    done = store.claim("done", DIGEST)
    assert isinstance(done, Claimed)
    assert store.complete(done, "1")
    servers.client(servers.first).wait(1, 5000)
    servers.kill_primary()
    began = time.monotonic()
    until(lambda: claims(store, "next"), seconds=BOUND_SECONDS)
    assert time.monotonic() - began < BOUND_SECONDS
    assert servers.role(servers.second) == "master"
    assert store.claim("done", DIGEST) == Completed("1")


def test_sentinel_connection_that_says_not_me_is_closed(servers: Servers) -> None:
    """The old primary stays up as a replica; without the close, a client behind a moving address would keep asking it."""
    store = store_at(f"redis://:{ENCODED}@127.0.0.1:{servers.first}/0")
    assert claims(store, "before")
    old = servers.client(servers.first)
    count = [line for line in old.client_list() if line["cmd"].startswith("eval")]
    assert len(count) == 1
    old.execute_command("REPLICAOF", "127.0.0.1", str(servers.second))
    with pytest.raises(LeaseStoreUnavailable, match=r"READONLY|read only replica"):
        store.claim("after", DIGEST)
    assert store._client._idle == []  # type: ignore[attr-defined]
    until(lambda: not [line for line in old.client_list() if line["cmd"].startswith("eval")])
