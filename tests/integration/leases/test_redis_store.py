"""What the lease store writes into Redis, and what it asks of it; ``test_protocol`` covers the replies and their rules."""

from __future__ import annotations

from typing import Any

import pytest

from tasks_demo.core.exceptions import InvalidOperationKey
from tasks_demo.leases.keys import record_key
from tasks_demo.leases.lua import script
from tasks_demo.leases.protocol import Completed
from tasks_demo.leases.redis_client import connect
from tasks_demo.leases.redis_store import RedisLeaseStore
from tests.integration.leases.lease_claims import DIGEST, SHORT, claimed, taken_over
from tests.integration.servers.redis import RedisServer
from tests.support import until

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def client(shared_redis: RedisServer) -> Any:
    return shared_redis.client()


@pytest.fixture
def store(client: Any) -> RedisLeaseStore:
    """A store with leases of a minute: none expires during a test."""
    return RedisLeaseStore(client, "t:", 60, 3600)


@pytest.fixture
def brief(client: Any) -> RedisLeaseStore:
    """A store over the same records whose leases end at once."""
    return RedisLeaseStore(client, "t:", SHORT, 3600)


def record(client: Any, operation: str) -> dict[str, str]:
    fields = client.hgetall(record_key("t:", operation))
    return {name.decode(): value.decode() for name, value in fields.items()}


def test_redis_store_claim_is_recorded(client: Any, store: RedisLeaseStore, operation: str) -> None:
    lease = claimed(store, operation)
    stored = record(client, operation)
    assert set(stored) == {"state", "owner", "fence", "attempt", "digest", "deadline", "who"}
    assert (stored["state"], stored["owner"], stored["fence"]) == ("claimed", lease.owner, str(lease.fence))


def test_redis_never_ends_the_lease_before_its_owner_does(client: Any, operation: str) -> None:
    odd = RedisLeaseStore(client, "t:", 59.9991, 3600)
    seconds, microseconds = client.time()
    lease = claimed(odd, operation)
    assert int(record(client, operation)["deadline"]) / 1000 >= seconds + microseconds / 1e6 + 59.9991
    assert odd.renew(lease) is not None


def redis_ms(client: Any) -> float:
    seconds, microseconds = client.time()
    return float(seconds * 1000 + microseconds / 1000)


def test_redis_store_release_keeps_the_record(client: Any, store: RedisLeaseStore, operation: str) -> None:
    first = claimed(store, operation)
    assert store.release(first)
    kept = record(client, operation)
    assert kept == {"state": "released", "fence": str(first.fence), "attempt": "1", "digest": DIGEST}


def test_redis_store_fence_grows_although_the_clock_of_redis_was_set_back(
    client: Any, store: RedisLeaseStore, operation: str
) -> None:
    # A record written while the clock was an hour ahead.
    ahead = int(redis_ms(client) * 1000) + 3_600_000_000
    store.release(claimed(store, operation))
    client.hset(record_key("t:", operation), "fence", ahead)
    assert claimed(store, operation).fence == ahead + 1


def test_redis_store_same_token_asking_again_gets_the_same_answer(
    client: Any, store: RedisLeaseStore, brief: RedisLeaseStore, operation: str
) -> None:
    """As after a lost reply to a claim. This is the only test that calls the script without the store."""
    arguments = (record_key("t:", operation), "token", DIGEST, 60_000, 3_600_000, "who", "")
    first = client.eval(script("claim").source, 1, *arguments)
    assert client.eval(script("claim").source, 1, *arguments) == first
    assert first[0] == b"claimed"
    assert record(client, operation)["attempt"] == "1"
    # Not after another worker held the lease: the old token is unknown then.
    client.hset(record_key("t:", operation), "deadline", 1)
    taken_over(store, operation)
    assert client.eval(script("claim").source, 1, *arguments)[0] == b"held"


@pytest.mark.parametrize("operation", ["{}", "}x{", "*", "a:b:c", "é😀", "%7B", " ", "{" * 200])
def test_redis_store_hostile_operations_are_records_like_any_other(
    client: Any, store: RedisLeaseStore, operation: str
) -> None:
    client.flushall()
    lease = claimed(store, operation)
    assert len(client.keys("t:op:*")) == 1
    assert store.renew(lease)
    assert store.complete(lease, "1")
    assert store.claim(operation, DIGEST) == Completed("1")


def test_redis_store_invalid_operation_never_reaches_redis(client: Any, store: RedisLeaseStore) -> None:
    client.flushall()
    with pytest.raises(InvalidOperationKey):
        store.claim("a\nb", DIGEST)
    assert client.dbsize() == 0


def test_redis_store_claim_and_complete_are_two_round_trips(
    shared_redis: RedisServer, client: Any, operation: str
) -> None:
    store = RedisLeaseStore(connect(shared_redis.url, 5), "t:", 60, 3600)
    store.complete(claimed(store, operation + " warm-up"), "1")
    client.config_resetstat()
    store.complete(claimed(store, operation), "1")
    calls = {name: stats["calls"] for name, stats in client.info("commandstats").items()}
    assert calls.pop("cmdstat_evalsha") == 2
    inside_the_scripts = {"time", "hmget", "exists", "hset", "hdel", "pexpire"}
    ours_to_measure = {"config", "config|resetstat", "info"}
    assert {name.removeprefix("cmdstat_") for name in calls} <= inside_the_scripts | ours_to_measure


def test_redis_store_new_connection_costs_no_round_trip_of_its_own(
    shared_redis: RedisServer, client: Any, store: RedisLeaseStore, operation: str
) -> None:
    claimed(store, operation + " loads the script")
    client.config_resetstat()
    claimed(RedisLeaseStore(connect(shared_redis.url, 5), "t:", 60, 3600), operation)
    calls = client.info("commandstats")
    assert calls["cmdstat_evalsha"]["calls"] == 1
    assert not [name for name in calls if name.startswith(("cmdstat_hello", "cmdstat_client", "cmdstat_select"))]


def test_redis_store_flushed_script_is_loaded_again(client: Any, store: RedisLeaseStore, operation: str) -> None:
    client.script_flush()
    lease = claimed(store, operation)
    client.script_flush()
    assert store.renew(lease)
    client.script_flush()
    assert store.complete(lease, "1")
    assert store.claim(operation, DIGEST) == Completed("1")
    client.script_flush()
    assert store.release(claimed(store, operation + "b"))


def test_redis_store_late_copy_of_a_claim_gives_its_first_holder_nothing(
    client: Any, brief: RedisLeaseStore, operation: str
) -> None:
    """The token is granted again with a new fence; a worker that relies on the first grant learns that it is lost."""
    first = claimed(brief, operation)
    taken_over(brief, operation)
    late = (first.owner, DIGEST, 60_000, 60_000, "", "")
    key = record_key("t:", operation)
    # The earlier claims have loaded the script.
    until(lambda: client.evalsha(script("claim").sha, 1, key, *late)[0] == b"claimed")
    before = record(client, operation)
    assert before["owner"] == first.owner
    assert (brief.renew(first), brief.release(first), brief.complete(first, "1")) == (None, False, False)
    assert record(client, operation) == before
