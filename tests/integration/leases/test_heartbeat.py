"""The heartbeat on a real Redis: it renews leases, stops renewing them, and reports a loss.

Over 300 lines: every test uses the same holder in a process of its own.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks_demo.core.exceptions import LeaseLost
from tasks_demo.leases.heartbeat import hold
from tasks_demo.leases.keys import record_key
from tasks_demo.leases.protocol import Claimed, Held
from tasks_demo.leases.redis_client import connect
from tasks_demo.leases.redis_store import RedisLeaseStore
from tests.integration.leases.lease_claims import DIGEST, claimed, taken_over
from tests.integration.servers.redis import EMBEDDED, RedisServer
from tests.support import until

pytestmark = pytest.mark.timeout(60)
FOR_EVER = 3600.0
# Leases of 5 s are renewed after 1.7 s: a machine that stands still for 3 s costs none.


@pytest.fixture
def server(short: Path) -> Iterator[RedisServer]:
    # A slow disk sync must not cost a lease.
    with RedisServer(short, EMBEDDED, "--appendfsync", "everysec") as started:
        yield started


def store_at(server: RedisServer, lease: float, timeout: float = 5.0) -> RedisLeaseStore:
    return RedisLeaseStore(connect(server.url, timeout), "t:", lease, 3600)


def ends_at(server: RedisServer, operation: str = "order") -> float:
    """The end of the lease according to Redis, in seconds of Redis time."""
    value = server.client().hget(record_key("t:", operation), "deadline")
    assert isinstance(value, bytes)
    return int(value) / 1000


@contextmanager
def paused(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_heartbeat_keeps_a_lease_for_several_of_its_lengths(server: RedisServer) -> None:
    store = store_at(server, 5)
    claim = claimed(store)
    first_end = ends_at(server)
    with hold(store, claim, FOR_EVER) as lease:
        until(lambda: ends_at(server) > first_end + 2 * 5)
        lease.check()
        assert not lease.lost
        assert lease.fence == claim.fence
        assert isinstance(store.claim("order", DIGEST), Held)


def test_heartbeat_renews_at_a_third_of_the_length(server: RedisServer) -> None:
    store = store_at(server, 12)
    with hold(store, claimed(store), FOR_EVER):
        first = ends_at(server)
        second = until(lambda: end if (end := ends_at(server)) > first else 0.0)
    assert 3.9 <= second - first < 8


def test_heartbeat_does_not_renew_a_closed_lease(server: RedisServer) -> None:
    store = store_at(server, 0.3)
    with hold(store, claimed(store), FOR_EVER):
        pass
    taken_over(store, "order")


def test_heartbeat_stops_at_the_cap(server: RedisServer) -> None:
    store = store_at(server, 5)
    claim = claimed(store)
    with hold(store, claim, cap_seconds=3) as lease:
        until(lambda: lease.lost)
        assert time.monotonic() >= claim.deadline - 5 + 3
        with pytest.raises(LeaseLost, match="cap of 3 s "):
            lease.check()
        # Inside the block: the cap must release the lease, not the end of the block.
        taken_over(store, "order")


def test_check_knows_the_cap_before_any_renewal(server: RedisServer) -> None:
    store = store_at(server, 60)
    with hold(store, claimed(store), cap_seconds=0.05) as lease:
        until(lambda: lease.lost, seconds=2)
        with pytest.raises(LeaseLost, match="cap"):
            lease.check()


def test_heartbeat_loses_a_lease_that_was_taken_over_at_the_next_renewal(server: RedisServer) -> None:
    store = store_at(server, 6)
    with hold(store, claimed(store), FOR_EVER) as lease:
        lease.check()
        server.client().hset(record_key("t:", "order"), "owner", "somebody else")
        until(lambda: lease.lost)
        with pytest.raises(LeaseLost, match="took it over"):  # reported by the renewal, not by the deadline
            lease.check()


def test_heartbeat_survives_a_short_failure_of_redis(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    server.client().config_set("appendfsync", "always")  # the server is killed: the record must be on disk
    store = store_at(server, 9)
    with hold(store, claimed(store), FOR_EVER) as lease:
        end = ends_at(server)
        server.kill()
        until(lambda: "did not renew the lease" in caplog.text)
        server.start()
        until(lambda: ends_at(server) > end)
        lease.check()


def test_heartbeat_without_redis_loses_the_lease_at_its_deadline_for_good(server: RedisServer) -> None:
    store = store_at(server, 0.6, timeout=0.1)
    patient = store_at(server, 0.6)
    claim = claimed(patient)
    with hold(store, claim, FOR_EVER) as lease:
        with paused(server.pid):
            until(lambda: lease.lost, seconds=3)
            with pytest.raises(LeaseLost, match="not renewed before it ended"):
                lease.check()
        # Nobody else has claimed, so Redis would still renew this token; but the task already knows that its lease is lost.
        assert patient.renew(claim) is not None
        lease.renew()
        assert lease.lost


def test_heartbeat_deadline_counts_even_if_the_heartbeat_is_stuck(server: RedisServer) -> None:
    store = store_at(server, 0.6, timeout=5)
    with hold(store, claimed(store), FOR_EVER) as lease, paused(server.pid):
        # The renewal in progress waits 5 seconds for its reply; check() does not.
        until(lambda: lease.lost, seconds=3)


def test_heartbeat_of_a_hung_redis_does_not_cost_another_its_leases(server: RedisServer) -> None:
    with tempfile.TemporaryDirectory(prefix="locks-") as folder, RedisServer(Path(folder)) as hung:
        slow = store_at(hung, 7.5, timeout=0.3)
        good = store_at(server, 5)
        # Twenty timeouts in a row take 6 s, longer than the good lease lasts.
        patient = store_at(hung, 7.5)
        leases = [hold(slow, claimed(patient, f"slow {number}"), FOR_EVER) for number in range(20)]
        try:
            with paused(hung.pid), hold(good, claimed(good, "good"), FOR_EVER) as lease:
                until(lambda: all(one.lost for one in leases))
                lease.check()
        finally:
            for one in leases:
                one.close()


class Broken(RedisLeaseStore):
    """A store with a bug."""

    def renew(self, claimed: Claimed) -> float | None:
        raise ZeroDivisionError("a mistake")


def test_heartbeat_loses_only_the_lease_of_a_store_that_raises(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken(connect(server.url, 5), "t:", 5, 3600)
    good = store_at(server, 5)
    with (
        hold(broken, claimed(broken, "broken"), FOR_EVER) as lost,
        hold(good, claimed(good, "good"), FOR_EVER) as kept,
    ):
        first = ends_at(server, "good")
        until(lambda: "a mistake" in caplog.text)
        with pytest.raises(LeaseLost, match="see the log"):
            lost.check()
        until(lambda: ends_at(server, "good") > first + 1)
        kept.check()


def test_heartbeat_renews_many_leases_in_one_thread(server: RedisServer) -> None:
    store = store_at(server, 5)
    held = [hold(store, claimed(store, f"order {number}"), FOR_EVER) for number in range(20)]
    try:
        firsts = {one: ends_at(server, one.claimed.operation) for one in held}
        until(lambda: all(ends_at(server, one.claimed.operation) > first + 1 for one, first in firsts.items()))
        assert [thread.name for thread in threading.enumerate()].count("lease-heartbeat") == 1
        assert not any(one.lost for one in held)
    finally:
        for one in held:
            one.close()


def test_heartbeat_wakes_for_a_shorter_lease(server: RedisServer) -> None:
    long, short = store_at(server, 60), store_at(server, 5)
    with hold(long, claimed(long, "long"), FOR_EVER):
        until(lambda: "lease-heartbeat" in {thread.name for thread in threading.enumerate()})
        with hold(short, claimed(short, "short"), FOR_EVER) as lease:
            first = ends_at(server, "short")
            until(lambda: ends_at(server, "short") > first + 1)
            lease.check()


START = """
import os, sys, threading
from tasks_demo.core.exceptions import LeaseLost
from tasks_demo.leases.heartbeat import hold
from tasks_demo.leases.redis_client import connect
from tasks_demo.leases.redis_store import RedisLeaseStore

store = RedisLeaseStore(connect(sys.argv[1], 5), "t:", 5, 3600)

def say(text):
    print(text, flush=True)

def verdict(lease):
    try:
        lease.check()
    except LeaseLost as lost:
        return f"lost: {lost}"
    return "kept"
"""


@contextmanager
def holder(server: RedisServer, script: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", START + script, server.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        # Kill the whole group before its leader is reaped: a forked child that hangs must not outlive the test.
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    # Unbuffered, so that select sees everything that was written.
    assert select.select([process.stdout], [], [], 15)[0], "the process said nothing for 15 seconds"
    return process.stdout.readline().decode().strip()


def tell(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")


HOLD = """
with hold(store, store.claim("order", "d" * 64), 3600) as lease:
    say("held")
    sys.stdin.readline()
    say(verdict(lease))
    sys.stdin.readline()
    say(verdict(lease))
"""


def test_heartbeat_of_a_stopped_process_knows_that_its_lease_is_lost(server: RedisServer) -> None:
    store = store_at(server, 5)
    with holder(server, HOLD) as process:
        assert line(process) == "held"
        first = ends_at(server)
        until(lambda: ends_at(server) > first + 1)
        with paused(process.pid):
            mine = taken_over(store, "order")
        tell(process)
        assert line(process).startswith("lost: The lease on 'order' is lost")
        # The old holder does not affect the new one after waking.
        assert store.renew(mine) is not None
        tell(process)
        assert line(process).startswith("lost")


def test_heartbeat_of_a_stopped_process_knows_it_even_if_nobody_took_over(server: RedisServer) -> None:
    with holder(server, HOLD) as process:
        assert line(process) == "held"
        with paused(process.pid):
            until(lambda: ends_at(server) + 0.1 < _redis_now(server))
        tell(process)
        assert line(process).startswith("lost")
        tell(process)
        assert line(process).startswith("lost")


def _redis_now(server: RedisServer) -> float:
    seconds, microseconds = server.client().time()
    return float(seconds + microseconds / 1e6)


def test_lease_of_a_killed_process_is_taken_over_when_it_has_ended(server: RedisServer) -> None:
    store = store_at(server, 5)
    with holder(server, HOLD) as process:
        assert line(process) == "held"
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert isinstance(store.claim("order", DIGEST), Held)
        end = ends_at(server)
        mine = taken_over(store, "order")
        assert mine.attempt == 2
        assert _redis_now(server) >= end


FORK = """
lease = hold(store, store.claim("parent", "d"), 3600)
# The fork happens while another thread holds the heartbeat's lock.
from tasks_demo.leases.heartbeat import _heartbeat
inside, leave = threading.Event(), threading.Event()
def occupy():
    with _heartbeat._changed:
        inside.set()
        leave.wait(10)
occupier = threading.Thread(target=occupy)
occupier.start()
inside.wait(10)
pid = os.fork()
if pid == 0:
    say("child: " + verdict(lease))
    say("threads: %d" % threading.active_count())
    own = hold(store, store.claim("child", "d"), 3600)
    say("held")
    sys.stdin.readline()
    say("own: " + verdict(own))
    lease.close()
    os._exit(0)
leave.set()
occupier.join()
assert os.waitpid(pid, 0)[1] == 0
say("parent: " + verdict(lease))
"""


def test_heartbeat_of_a_forked_child_is_its_own_and_inherits_no_lease(server: RedisServer) -> None:
    with holder(server, FORK) as process:
        assert line(process).startswith("child: lost: The lease on 'parent' is lost: process")
        assert line(process) == "threads: 1"
        assert line(process) == "held"
        ends = {name: ends_at(server, name) for name in ("parent", "child")}
        until(lambda: all(ends_at(server, name) > end + 1 for name, end in ends.items()))
        tell(process)
        assert line(process) == "own: kept"
        assert line(process) == "parent: kept"
        assert process.wait(10) == 0
