"""What the tests of leases share: claims on operations that no other test uses."""

from __future__ import annotations

from tasks_demo.leases.protocol import Claimed, LeaseStore
from tests.support import until

DIGEST, OTHER = "d" * 64, "e" * 64
SHORT = 0.05


def claimed(store: LeaseStore, operation: str = "order", digest: str = DIGEST) -> Claimed:
    """Claim, and fail if somebody else holds it."""
    reply = store.claim(operation, digest)
    assert isinstance(reply, Claimed), reply
    return reply


def taken_over(store: LeaseStore, operation: str) -> Claimed:
    """Claim as soon as the earlier lease has ended."""
    return until(lambda: reply if isinstance(reply := store.claim(operation, DIGEST), Claimed) else None)


def ask(store: LeaseStore, verb: str, lease: Claimed) -> object:
    """Renew, complete or release."""
    if verb == "renew":
        return store.renew(lease)
    return store.complete(lease, "1") if verb == "complete" else store.release(lease)
