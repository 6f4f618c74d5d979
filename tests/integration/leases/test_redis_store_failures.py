"""Without a valid reply the store raises LeaseStoreUnavailable, and the record stays consistent.

Over 300 lines: every way in which one store can fail, on the same fixtures.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery.exceptions import SoftTimeLimitExceeded

from tasks_demo.core.exceptions import InvalidSetting, LeaseStoreUnavailable
from tasks_demo.leases.keys import record_key
from tasks_demo.leases.protocol import Completed, Held
from tasks_demo.leases.redis_client import connect
from tasks_demo.leases.redis_store import RedisLeaseStore
from tests.integration.leases.lease_claims import DIGEST, claimed
from tests.integration.servers.redis import BINARIES, RedisServer
from tests.support import until

pytestmark = pytest.mark.timeout(60)
KEY = record_key("t:", "order")


def store_at(url: str, timeout: float = 5.0) -> RedisLeaseStore:
    return RedisLeaseStore(connect(url, timeout), "t:", 60, 3600)


class Wire:
    """A Unix socket in front of Redis that can lose or corrupt the replies on its next connections."""

    def __init__(self, path: Path, behind: Path) -> None:
        self.url = f"unix://{path}"
        self.spoilt: list[bytes] = []
        self.connections = 0
        self._behind = str(behind)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            near, _ = self._listener.accept()
            with near, socket.socket(socket.AF_UNIX) as far:
                near.settimeout(10)
                far.settimeout(10)
                far.connect(self._behind)
                first = near.recv(1 << 20)
                if not first:
                    return
                self.connections += 1
                far.sendall(first)
                reply = far.recv(1 << 20)
                near.sendall(self.spoilt.pop(0) if self.spoilt else reply)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self._listener.getsockname())
            last.shutdown(socket.SHUT_WR)
            self._thread.join(20)
        self._listener.close()
        assert not self._thread.is_alive()


@pytest.fixture
def wire(own_redis: RedisServer) -> Iterator[Wire]:
    for name in ("claim", "complete", "release"):
        own_redis.client().script_load((Path("tasks_demo/leases/lua") / f"{name}.lua").read_text())
    wire = Wire(own_redis.folder / "w", own_redis.socket)
    yield wire
    wire.close()


LOST = b""


def test_redis_store_claim_whose_reply_is_lost_is_asked_again_with_the_same_token(
    own_redis: RedisServer, wire: Wire
) -> None:
    wire.spoilt = [LOST]
    lease = claimed(store_at(wire.url))
    assert wire.connections == 2
    assert lease.attempt == 1
    record = own_redis.client().hgetall(KEY)
    assert (record[b"owner"].decode(), int(record[b"fence"]), record[b"attempt"]) == (lease.owner, lease.fence, b"1")


def test_redis_store_claim_fails_and_stays_held_if_the_second_reply_is_lost_too(
    own_redis: RedisServer, wire: Wire
) -> None:
    wire.spoilt = [LOST, LOST]
    with pytest.raises(LeaseStoreUnavailable, match="body was not run"):
        store_at(wire.url).claim("order", DIGEST)
    assert wire.connections == 2
    assert isinstance(store_at(own_redis.url).claim("order", DIGEST), Held)


def test_redis_store_completion_whose_reply_is_lost_is_asked_again_and_believed(
    own_redis: RedisServer, wire: Wire
) -> None:
    lease = claimed(store_at(own_redis.url))
    wire.spoilt = [LOST]
    assert store_at(wire.url).complete(lease, "1")
    assert store_at(own_redis.url).claim("order", DIGEST) == Completed("1")


def test_redis_store_release_whose_reply_is_lost_has_released(own_redis: RedisServer, wire: Wire) -> None:
    lease = claimed(store_at(own_redis.url))
    wire.spoilt = [LOST]
    assert not store_at(wire.url).release(lease)
    assert claimed(store_at(own_redis.url)).attempt == 2


def test_redis_store_renewal_is_sent_once(own_redis: RedisServer, wire: Wire) -> None:
    lease = claimed(store_at(own_redis.url))
    wire.spoilt = [LOST]
    with pytest.raises(LeaseStoreUnavailable, match="ends at its deadline"):
        store_at(wire.url).renew(lease)
    assert wire.connections == 1


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"*abc\r\n",
        b"+OK\r\n",
        b":1\r\n",
        b"$-1\r\n",
        b"*0\r\n",
        b"*1\r\n$5\r\nhello\r\n",
        b"*1\r\n$2\r\n\xff\xfe\r\n",
        b"*2\r\n$4\r\nheld\r\n$-1\r\n",
        b"*2\r\n$4\r\nheld\r\n$4\r\nsoon\r\n",
        b"*3\r\n$7\r\nclaimed\r\n$1\r\nx\r\n$1\r\n1\r\n",
        b"*3\r\n$7\r\nclaimed\r\n:1\r\n:1\r\n",
        b"-ERR anything\r\n",
    ],
)
def test_redis_store_reply_that_cannot_be_understood_is_not_believed(wire: Wire, reply: bytes) -> None:
    wire.spoilt = [reply, reply]
    with pytest.raises(LeaseStoreUnavailable, match="body was not run"):
        store_at(wire.url).claim("order", DIGEST)


@pytest.mark.parametrize("reply", [b"+OK\r\n", b"*1\r\n$5\r\nhello\r\n", b"*0\r\n"])
def test_redis_store_completion_is_not_believed_either(own_redis: RedisServer, wire: Wire, reply: bytes) -> None:
    lease = claimed(store_at(own_redis.url))
    wire.spoilt = [reply]
    with pytest.raises(LeaseStoreUnavailable, match="may run again"):
        store_at(wire.url).complete(lease, None)


def test_redis_is_down(own_redis: RedisServer) -> None:
    store = store_at(own_redis.url)
    lease = claimed(store)
    own_redis.kill()
    with pytest.raises(LeaseStoreUnavailable, match=r"ConnectionError.*body was not run"):
        store.claim("order", DIGEST)
    with pytest.raises(LeaseStoreUnavailable, match="ends at its deadline"):
        store.renew(lease)
    with pytest.raises(LeaseStoreUnavailable, match="may run again"):
        store.complete(lease, None)
    with pytest.raises(LeaseStoreUnavailable, match="until its lease ends"):
        store.release(lease)


def test_redis_hangs_for_two_timeouts_at_most(own_redis: RedisServer) -> None:
    admin, store = own_redis.client(), store_at(own_redis.url, timeout=0.2)
    claimed(store_at(own_redis.url), "before")  # load the script into Redis with a long timeout
    admin.config_resetstat()
    os.kill(own_redis.pid, signal.SIGSTOP)
    try:
        before = time.monotonic()
        with pytest.raises(LeaseStoreUnavailable, match="TimeoutError"):
            store.claim("order", DIGEST)
        assert 0.4 <= time.monotonic() - before < 10
    finally:
        os.kill(own_redis.pid, signal.SIGCONT)
    # Redis still executed both copies, so an unknown token holds the lease, as documented.
    assert isinstance(until(lambda: store_at(own_redis.url).claim("order", DIGEST)), Held)
    assert admin.info("commandstats")["cmdstat_evalsha"]["calls"] == 3, "two copies, and the question just asked"


@pytest.mark.parametrize("verb", ["claim", "renew"])
def test_redis_store_deadline_counts_from_before_the_script_was_sent(own_redis: RedisServer, verb: str) -> None:
    store = store_at(own_redis.url)
    lease = claimed(store)
    os.kill(own_redis.pid, signal.SIGSTOP)
    goes_on = threading.Timer(2.0, os.kill, (own_redis.pid, signal.SIGCONT))
    goes_on.start()
    sent = time.monotonic()
    deadline = claimed(store, "other").deadline if verb == "claim" else store.renew(lease)
    answered = time.monotonic()
    goes_on.join()
    assert answered - sent > 1, "Redis did not make it wait"
    assert deadline is not None
    assert sent + 60 <= deadline < sent + 61


def test_redis_store_records_survive_a_killed_redis_with_an_append_only_file(own_redis: RedisServer) -> None:
    store = store_at(own_redis.url)
    done, running, given_back = (claimed(store, name) for name in ("done", "running", "given back"))
    assert store.complete(done, '"result"')
    assert store.release(given_back)
    own_redis.kill()
    own_redis.start()
    # The scripts are lost with the server; the store loads them again.
    assert store.claim("done", DIGEST) == Completed('"result"')
    assert isinstance(store.claim("running", DIGEST), Held)
    assert store.renew(running) is not None
    again = claimed(store, "given back")
    assert (again.attempt, again.fence > given_back.fence) == (2, True)


def test_redis_store_read_only_replica_refuses(own_redis: RedisServer) -> None:
    store, admin = store_at(own_redis.url), own_redis.client()
    lease = claimed(store, "before")
    admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(LeaseStoreUnavailable, match=r"READONLY|read only"):
        store.claim("order", DIGEST)
    with pytest.raises(LeaseStoreUnavailable):
        store.complete(lease, None)
    admin.execute_command("REPLICAOF", "NO", "ONE")
    assert store.complete(lease, None)
    assert claimed(store).attempt == 1


def test_redis_store_full_redis_starts_nothing_new_but_lets_running_work_finish(own_redis: RedisServer) -> None:
    store, admin = store_at(own_redis.url), own_redis.client()
    ends, goes_back = claimed(store, "ends"), claimed(store, "goes back")
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", "1")
    with pytest.raises(LeaseStoreUnavailable, match=r"OOM|maxmemory"):
        store.claim("order", DIGEST)
    assert not admin.exists(KEY)
    assert store.renew(ends) is not None
    assert store.complete(ends, '"result"')
    assert store.release(goes_back)
    with pytest.raises(LeaseStoreUnavailable):
        store.claim("goes back", DIGEST)
    assert admin.hget(record_key("t:", "goes back"), "state") == b"released"
    assert store.claim("ends", DIGEST) == Completed('"result"')
    admin.config_set("maxmemory", "0")
    assert claimed(store, "goes back").attempt == 2


def test_redis_store_missing_or_wrong_password(own_redis: RedisServer) -> None:
    own_redis.client().config_set("requirepass", "right")
    with pytest.raises(LeaseStoreUnavailable, match="AuthenticationError"):
        store_at(own_redis.url).claim("order", DIGEST)
    with pytest.raises(LeaseStoreUnavailable, match="AuthenticationError") as wrong:
        store_at(f"{own_redis.url}?password=wr0ng").claim("order", DIGEST)
    assert "wr0ng" not in str(wrong.value)
    claimed(store_at(f"{own_redis.url}?password=right"))


def test_redis_store_user_who_may_not_run_scripts(own_redis: RedisServer) -> None:
    own_redis.client().execute_command("ACL", "SETUSER", "guest", "on", ">pw", "~*", "+@all", "-@scripting")
    with pytest.raises(LeaseStoreUnavailable, match="NoPermissionError"):
        store_at(f"unix://guest@{own_redis.socket}?password=pw").claim("order", DIGEST)


def test_redis_store_key_of_another_type_is_not_overwritten(own_redis: RedisServer) -> None:
    admin = own_redis.client()
    admin.set(KEY, "somebody's")
    with pytest.raises(LeaseStoreUnavailable, match=r"WRONGTYPE|wrong kind"):
        store_at(own_redis.url).claim("order", DIGEST)
    assert admin.get(KEY) == b"somebody's"


@pytest.mark.parametrize(
    "damage",
    [{"fence": "many"}, {"attempt": ""}, {"state": "?"}, {"state": ""}, {"deadline": "soon"}],
    ids=str,
)
def test_redis_store_damaged_record_is_neither_believed_nor_overwritten(
    own_redis: RedisServer, damage: dict[str, str]
) -> None:
    store, admin = store_at(own_redis.url), own_redis.client()
    claimed(store)
    admin.hset(KEY, mapping=damage)
    before = admin.hgetall(KEY)
    with pytest.raises(LeaseStoreUnavailable, match="damaged"):
        store.claim("order", DIGEST)
    assert admin.hgetall(KEY) == before


@pytest.mark.parametrize("field", ["state", "owner", "fence", "attempt", "digest", "deadline"])
def test_redis_store_record_that_lacks_a_field_is_damaged(own_redis: RedisServer, field: str) -> None:
    store, admin = store_at(own_redis.url), own_redis.client()
    claimed(store)
    admin.hdel(KEY, field)
    with pytest.raises(LeaseStoreUnavailable, match="damaged"):
        store.claim("order", DIGEST)


def _two_free_ports() -> int:
    """Ports whose cluster bus ports (10000 higher) are free too."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + 10000))
            except (OSError, OverflowError):
                continue
            return int(port)


@pytest.mark.parametrize("name", list(BINARIES))
def test_redis_store_every_script_runs_on_a_cluster_node(short: Path, name: str) -> None:
    binary = BINARIES[name]
    if binary is None:
        pytest.skip("no redis-server on this system")
    options = ("--port", str(_two_free_ports()), "--bind", "127.0.0.1", "--cluster-enabled", "yes")
    with RedisServer(short, binary, *options) as server:
        admin = server.client()
        admin.execute_command("CLUSTER ADDSLOTS", *range(16384))
        until(lambda: b"cluster_state:ok" in _raw(admin.execute_command("CLUSTER INFO")))
        store = store_at(server.url)
        for operation in ("order", "}{", "*{a}"):
            first = claimed(store, operation)
            assert store.renew(first)
            assert store.release(first)
            assert store.complete(claimed(store, operation), "1")
            assert store.claim(operation, DIGEST) == Completed("1")


def _raw(info: object) -> bytes:
    if isinstance(info, dict):
        return "".join(f"{name}:{value}\n" for name, value in info.items()).encode()
    assert isinstance(info, bytes)
    return info


@pytest.mark.parametrize(
    "url",
    [
        "",
        "order",
        "http://:s3cret@h",
        "redis+socket:///s3cret",
        "redis://h/?socket_timeout=s3cret",
        "unix:///s?unheard_of=s3cret",
    ],
)
def test_redis_store_address_that_cannot_work_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(InvalidSetting, match="Write redis://") as refused:
        connect(url, 1)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["redis://h:1/2", "rediss://h:1/2", "unix:///s?db=2"])
def test_redis_store_client_has_our_timeouts_and_no_retries_whatever_the_address_says(scheme: str) -> None:
    mark = "&" if "?" in scheme else "?"
    client = connect(f"{scheme}{mark}socket_timeout=99&retry_on_timeout=yes&decode_responses=yes&protocol=3", 1.5)
    connection: Any = client.connection_pool.make_connection()
    assert connection.socket_timeout == 1.5
    assert connection.socket_connect_timeout == 1.5
    assert connection.retry.get_retries() == 0
    assert connection.db == 2
    assert not connection.encoder.decode_responses


def test_redis_store_whoever_is_interrupted_before_the_answer_leaves_none_to_the_next(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(own_redis.url, 5)
    store = RedisLeaseStore(client, "t:", 60, 3600)
    claimed(store, "warm")

    def interrupted(*_: Any, **__: Any) -> None:
        raise SoftTimeLimitExceeded

    with monkeypatch.context() as patched:
        patched.setattr(client, "parse_response", interrupted)
        with pytest.raises(SoftTimeLimitExceeded):
            store.claim("order", DIGEST)
    other = claimed(store, "other")
    record = own_redis.client().hgetall(record_key("t:", "other"))
    assert (record[b"owner"].decode(), int(record[b"fence"])) == (other.owner, other.fence)


def test_redis_store_connection_that_redis_has_closed_costs_no_question(own_redis: RedisServer) -> None:
    store = store_at(own_redis.url)
    lease = claimed(store)
    own_redis.client().client_kill_filter(_type="normal")
    assert store.renew(lease) is not None, "a renewal is sent once only"


def test_redis_store_long_outage_is_over_when_redis_is_back(short: Path) -> None:
    server = RedisServer(short)
    store = store_at(server.url)
    for _ in range(150):  # more than the connections in a redis-py pool
        with pytest.raises(LeaseStoreUnavailable):
            store.claim("order", DIGEST)
    with server:
        claimed(store)


def test_redis_store_refusal_leaves_the_connection_to_the_next(own_redis: RedisServer) -> None:
    client = connect(own_redis.url, 5)
    number = client.client_id()
    with pytest.raises(redis.ResponseError):
        client.execute_command("EVALSHA", "0" * 40, 0)
    assert client.client_id() == number
    client.close()
    assert client.client_id() != number


def test_redis_store_tls_where_there_is_none_is_refused(short: Path) -> None:
    port = _two_free_ports()
    with (
        RedisServer(short, BINARIES["embedded"] or "", "--port", str(port), "--bind", "127.0.0.1"),
        pytest.raises(LeaseStoreUnavailable),
    ):
        store_at(f"rediss://127.0.0.1:{port}", timeout=1).claim("order", DIGEST)


FORK = """
import os, sys, threading
from tasks_demo.leases.redis_client import connect
from tasks_demo.leases.redis_store import RedisLeaseStore
client = connect(sys.argv[1], 5)
store = RedisLeaseStore(client, "t:", 60, 3600)
parent_lease = store.claim("parent", "d")
socket_of_parent = client.client_id()
# As if another thread held a lock of the client's pool at the moment of the fork.
inside, leave = threading.Event(), threading.Event()
def occupy():
    with client.connection_pool._fork_lock:
        inside.set()
        leave.wait(20)
occupier = threading.Thread(target=occupy)
occupier.start()
inside.wait(10)
pid = os.fork()
if pid == 0:
    lease = store.claim("child", "d")
    assert client.client_id() != socket_of_parent
    assert store.complete(lease, "1")
    os._exit(0)
leave.set()
occupier.join()
assert os.waitpid(pid, 0)[1] == 0, "the child failed"
assert client.client_id() == socket_of_parent
assert store.complete(parent_lease, "1")
print("both completed")
"""


def test_redis_store_forked_child_has_a_client_of_its_own(shared_redis: RedisServer) -> None:
    shared_redis.client().flushall()
    done = subprocess.run(
        [sys.executable, "-c", FORK, shared_redis.url], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, "both completed\n"), done.stderr
