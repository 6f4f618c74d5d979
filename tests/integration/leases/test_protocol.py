"""The lease protocol, on every implementation: each reply, and every rule about owner and fence.

``test_redis_store`` covers Redis itself, its scripts and connections; ``test_protocol_model`` covers a hostile clock and network.

Over 300 lines: one suite, run on every implementation.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import pytest

from tasks_demo.core.exceptions import InvalidOperationKey, InvalidSetting
from tasks_demo.leases.keys import record_key
from tasks_demo.leases.memory_store import Memory, MemoryLeaseStore
from tasks_demo.leases.protocol import Claimed, Completed, Held, LeaseStore, Mismatch
from tasks_demo.leases.redis_store import RedisLeaseStore
from tests.integration.leases.lease_claims import DIGEST, OTHER, SHORT, ask, claimed, taken_over
from tests.integration.servers.redis import BINARIES, RedisServer
from tests.support import until

pytestmark = pytest.mark.timeout(60)


class Place(Protocol):
    """Direct access to the records behind a kind of store."""

    def store(self, lease: float, retention: float, prefix: str = "t:") -> LeaseStore:
        """Another store over the same records."""

    def record(self, operation: str) -> dict[str, Any]:
        """The whole record of an operation; empty if there is none."""

    def remove(self, operation: str) -> None:
        """Delete its record."""

    def let_it_end(self, operation: str) -> None:
        """Wait until its lease ends."""


class InRedis:
    def __init__(self, client: Any) -> None:
        self.client = client

    def store(self, lease: float, retention: float, prefix: str = "t:") -> LeaseStore:
        return RedisLeaseStore(self.client, prefix, lease, retention)

    def record(self, operation: str) -> dict[str, Any]:
        fields = self.client.hgetall(record_key("t:", operation))
        return {name.decode(): value.decode() for name, value in fields.items()}

    def remove(self, operation: str) -> None:
        self.client.delete(record_key("t:", operation))

    def let_it_end(self, operation: str) -> None:
        def ended() -> bool:
            seconds, microseconds = self.client.time()
            return bool(seconds * 1000 + microseconds / 1000 > int(self.record(operation)["deadline"]))

        until(ended)


class InMemory:
    def __init__(self) -> None:
        self.memory = Memory()

    def store(self, lease: float, retention: float, prefix: str = "t:") -> LeaseStore:
        return MemoryLeaseStore(self.memory, prefix, lease, retention)

    def record(self, operation: str) -> dict[str, Any]:
        record = self.memory.get(record_key("t:", operation))
        return {} if record is None else asdict(record)

    def remove(self, operation: str) -> None:
        self.memory.forget(record_key("t:", operation))

    def let_it_end(self, operation: str) -> None:
        self.memory.skip(self.record(operation)["held_until"] - self.memory.now())


@pytest.fixture(scope="module", params=[*BINARIES, "memory"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The records of one implementation; each test has its own operation."""
    if request.param == "memory":
        yield InMemory()
        return
    binary = BINARIES[request.param]
    if binary is None:
        pytest.skip("no redis-server on this system; the embedded one is tested")
    with tempfile.TemporaryDirectory(prefix="locks-") as folder, RedisServer(Path(folder), binary) as server:
        yield InRedis(server.client())


@pytest.fixture
def store(place: Place) -> LeaseStore:
    """A store with leases of a minute: none expires during a test."""
    return place.store(60, 3600)


@pytest.fixture
def brief(place: Place) -> LeaseStore:
    """A store over the same records whose leases end at once."""
    return place.store(SHORT, 3600)


def test_protocol_first_claim_counts_from_before_it_was_sent(store: LeaseStore, operation: str) -> None:
    before = time.monotonic()
    lease = claimed(store, operation)
    assert (lease.operation, lease.attempt, store.lease_seconds) == (operation, 1, 60)
    assert before + 60 <= lease.deadline <= time.monotonic() + 60


def test_protocol_renewal_lasts_a_full_length_from_now(store: LeaseStore, brief: LeaseStore, operation: str) -> None:
    lease = claimed(brief, operation)
    before = time.monotonic()
    deadline = store.renew(lease)
    assert deadline is not None
    assert before + 60 <= deadline <= time.monotonic() + 60
    assert isinstance(store.claim(operation, DIGEST), Held)


def test_protocol_release_lets_the_next_one_in_and_keeps_attempt_fence_and_digest(
    store: LeaseStore, operation: str
) -> None:
    first = claimed(store, operation)
    assert store.release(first)
    assert not store.release(first)
    assert store.claim(operation, OTHER) == Mismatch()
    second = claimed(store, operation)
    assert second.attempt == 2
    assert second.fence > first.fence


def test_protocol_every_change_begins_the_retention_anew_and_a_question_does_not(place: Place, operation: str) -> None:
    lease = claimed(place.store(0.2, 60), operation)
    assert place.store(0.2, 3600).renew(lease)
    assert place.store(0.2, 0.3).complete(lease, "1")
    asking = place.store(0.2, 3600)
    until(lambda: isinstance(asking.claim(operation, DIGEST), Claimed))


def test_protocol_record_that_was_changed_outlives_one_that_was_claimed_later(place: Place, operation: str) -> None:
    lease = claimed(place.store(2, 2), operation)
    assert place.store(60, 3600).renew(lease)
    claimed(place.store(2, 2), operation + " later")
    until(lambda: not place.record(operation + " later"))
    assert place.record(operation)


def test_protocol_other_prefixes_are_other_operations(place: Place, store: LeaseStore, operation: str) -> None:
    assert store.complete(claimed(store, operation), "1")
    assert isinstance(place.store(60, 3600, "u:").claim(operation, DIGEST), Claimed)


def test_protocol_invalid_operation_is_refused(store: LeaseStore) -> None:
    with pytest.raises(InvalidOperationKey):
        store.claim("a\nb", DIGEST)


def test_protocol_every_claim_has_a_token_of_its_own(store: LeaseStore, operation: str) -> None:
    one, other = claimed(store, operation), claimed(store, operation + "b")
    assert one.owner != other.owner
    assert len(one.owner) == 32


def test_protocol_second_claim_is_held_even_for_the_same_store(store: LeaseStore, operation: str) -> None:
    claimed(store, operation)
    reply = store.claim(operation, DIGEST)
    assert isinstance(reply, Held)
    assert 50 < reply.seconds_left <= 60.001


def test_protocol_completed_operation_gives_its_result(store: LeaseStore, operation: str) -> None:
    assert store.complete(claimed(store, operation), '{"charged": "5 €"}')
    assert store.claim(operation, DIGEST) == Completed('{"charged": "5 €"}')


@pytest.mark.parametrize("result", [None, "", "null"])
def test_protocol_no_result_and_an_empty_one_are_told_apart(
    store: LeaseStore, operation: str, result: str | None
) -> None:
    assert store.complete(claimed(store, operation), result)
    assert store.claim(operation, DIGEST) == Completed(result)


@pytest.mark.parametrize("state", ["claimed", "expired", "completed", "released"])
def test_protocol_other_arguments_are_a_mismatch_in_every_state(
    place: Place, store: LeaseStore, brief: LeaseStore, operation: str, state: str
) -> None:
    lease = claimed(brief if state == "expired" else store, operation)
    if state == "completed":
        store.complete(lease, "1")
    elif state == "released":
        store.release(lease)
    elif state == "expired":
        place.let_it_end(operation)
    before = place.record(operation)
    assert store.claim(operation, OTHER) == Mismatch()
    assert place.record(operation) == before


def test_protocol_expired_lease_is_taken_over_with_a_greater_fence(brief: LeaseStore, operation: str) -> None:
    first = claimed(brief, operation)
    second = taken_over(brief, operation)
    assert second.fence > first.fence
    assert second.attempt == 2
    assert second.owner != first.owner


def test_protocol_nobody_takes_over_before_the_lease_has_ended(place: Place, operation: str) -> None:
    store = place.store(0.3, 3600)
    lease = claimed(store, operation)
    taken_over(store, operation)
    assert time.monotonic() >= lease.deadline


def test_protocol_fence_outlives_the_record(place: Place, operation: str) -> None:
    fleeting = place.store(SHORT, SHORT)
    first = claimed(fleeting, operation)
    until(lambda: not place.record(operation))
    second = claimed(fleeting, operation)
    assert second.attempt == 1
    assert second.fence > first.fence


@pytest.mark.parametrize("verb", ["renew", "complete", "release"])
def test_protocol_stale_owner_changes_nothing_once_taken_over(
    place: Place, store: LeaseStore, brief: LeaseStore, operation: str, verb: str
) -> None:
    stale = claimed(brief, operation)
    taken_over(store, operation)
    before = place.record(operation)
    assert not ask(store, verb, stale)
    assert place.record(operation) == before


@pytest.mark.parametrize(
    ("end", "verb"),
    [*product(["release"], ["renew", "complete", "release"]), *product(["complete"], ["renew", "release"])],
)
def test_protocol_owner_changes_nothing_once_released_or_completed(
    place: Place, store: LeaseStore, operation: str, end: str, verb: str
) -> None:
    lease = claimed(store, operation)
    ask(store, end, lease)
    before = place.record(operation)
    assert not ask(store, verb, lease)
    assert place.record(operation) == before


@pytest.mark.parametrize("verb", ["renew", "complete", "release"])
def test_protocol_vanished_record_is_lost_and_not_made_again(
    place: Place, store: LeaseStore, operation: str, verb: str
) -> None:
    lease = claimed(store, operation)
    place.remove(operation)
    assert not ask(store, verb, lease)
    assert place.record(operation) == {}


def test_protocol_complete_works_after_expiry_when_nobody_has_claimed(
    place: Place, brief: LeaseStore, operation: str
) -> None:
    lease = claimed(brief, operation)
    place.let_it_end(operation)
    assert brief.complete(lease, "1")
    assert brief.claim(operation, DIGEST) == Completed("1")


def test_protocol_renew_works_after_expiry_when_nobody_has_claimed(
    place: Place, store: LeaseStore, brief: LeaseStore, operation: str
) -> None:
    lease = claimed(brief, operation)
    place.let_it_end(operation)
    assert store.renew(lease) is not None
    assert isinstance(store.claim(operation, DIGEST), Held)


def test_protocol_completing_twice_keeps_the_first_result(store: LeaseStore, operation: str) -> None:
    lease = claimed(store, operation)
    assert store.complete(lease, "1")
    assert store.complete(lease, "2")
    assert store.claim(operation, DIGEST) == Completed("1")


def test_protocol_of_many_threads_one_claims(store: LeaseStore, operation: str) -> None:
    together = threading.Barrier(16)

    def race(_: int) -> object:
        together.wait(10)
        return store.claim(operation, DIGEST)

    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(race, range(16)))
    assert sorted(type(reply).__name__ for reply in replies) == ["Claimed"] + ["Held"] * 15


@pytest.mark.parametrize(
    ("prefix", "lease", "retention"),
    [
        ("{", 1, 2),
        ("p:", 0, 1),
        ("p:", -1, 1),
        ("p:", 2, 1),
        ("p:", float("inf"), float("inf")),
        ("p:", 1, float("nan")),
    ],
)
def test_protocol_settings_that_cannot_work_are_refused(
    place: Place, prefix: str, lease: float, retention: float
) -> None:
    with pytest.raises(InvalidSetting):
        place.store(lease, retention, prefix)


def test_protocol_claim_whose_holder_is_gone_is_taken_over_at_once_and_only_that_claim(
    store: LeaseStore, operation: str
) -> None:
    store.claim(operation, DIGEST, "process 7")
    first = store.claim(operation, DIGEST, "process 8")
    assert isinstance(first, Held)
    assert first.who == "process 7"
    wrong = store.claim(operation, DIGEST, "process 8", first.fence - 1)
    assert isinstance(wrong, Held)
    over = store.claim(operation, DIGEST, "process 8", first.fence)
    assert isinstance(over, Claimed)
    assert (over.fence > first.fence, over.attempt) == (True, 2)
    late = store.claim(operation, DIGEST, "process 9", first.fence)
    assert isinstance(late, Held)
    assert (late.who, late.fence) == ("process 8", over.fence)
    assert store.complete(over, "1")
    assert store.claim(operation, DIGEST, "process 9", over.fence) == Completed("1", "process 8")


@pytest.mark.parametrize("verb", ["renew", "complete", "release"])
def test_protocol_holder_that_was_taken_for_gone_is_told_so(store: LeaseStore, operation: str, verb: str) -> None:
    lease = claimed(store, operation)
    assert isinstance(store.claim(operation, DIGEST, "other", lease.fence), Claimed)
    assert not ask(store, verb, lease)


def test_protocol_token_is_in_no_reply(store: LeaseStore, operation: str) -> None:
    lease = claimed(store, operation)
    assert lease.owner not in repr(store.claim(operation, DIGEST))
    store.complete(lease, "1")
    assert lease.owner not in repr(store.claim(operation, DIGEST))
