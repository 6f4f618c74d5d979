"""Check the lease protocol against its invariants on a real Redis, with three workers and a hostile clock and network.

The production store and scripts run; the model supplies the time (see ``protocol_model``). The workers follow the program of
``dedup_lock`` step by step, so any of them may pause anywhere and continue as a zombie. The same machine then runs against
the protocols of ``MUTANTS``, each with one mistake that each of its invariants catches alone.

Not shown: anything about a request that arrives later than ``LATEST_US`` (test_redis_store.py shows that such a late claim
gives its first holder nothing), a Redis that loses the record, or a Redis clock that jumps ahead. A search that finds no
violation does not prove that there is none.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase

from tests.integration.leases.protocol_machine import client, explore
from tests.integration.leases.protocol_model import (
    MODEL_TIME,
    WORKER_TIME,
    Invariant,
    Mutant,
    Violation,
)

__all__ = ["client"]
_FENCE = "fence = string.format('%.0f', math.max((tonumber(fence or '') or 0) + 1, now_us))"
_NOT_OWNER = "if state ~= 'claimed' or holder ~= owner or latest ~= fence then"
_ROUNDED_UP, _NOT_ROUNDED = "now_ms + 1 + lease_ms", "now_ms + lease_ms"
#: Each mistake, with the invariants that each catch it alone.
MUTANTS: dict[Mutant, tuple[Invariant, ...]] = {
    Mutant(
        "a take-over does not ask whose claim is meant",
        edits=(("claim", "fence ~= gone and", "gone == '' and"),),
    ): (Invariant.ONE_HOLDER,),
    Mutant("a claim of the dead is waited for", edits=(("claim", "fence ~= gone and ", ""),)): (Invariant.PROGRESS,),
    Mutant("renew does not ask who", edits=(("renew", _NOT_OWNER, "if state ~= 'claimed' then"),)): (
        Invariant.STALE_TOKEN,
        Invariant.BELIEF,
    ),
    Mutant(
        "renew takes back what others have claimed since",
        edits=(
            ("renew", _NOT_OWNER, "if state ~= 'claimed' then"),
            ("renew", "'HSET', record, 'deadline'", "'HSET', record, 'owner', owner, 'deadline'"),
        ),
    ): (Invariant.STALE_TOKEN, Invariant.ONE_HOLDER),
    Mutant(
        "complete does not ask who",
        edits=(("complete", "if holder ~= owner or latest ~= fence or (state", "if (state"),),
    ): (Invariant.STALE_TOKEN, Invariant.RESULT),
    Mutant("release does not ask who", edits=(("release", _NOT_OWNER, "if state ~= 'claimed' then"),)): (
        Invariant.STALE_TOKEN,
        Invariant.ONE_HOLDER,
    ),
    Mutant("the fence is constant", edits=(("claim", _FENCE, "fence = '7'"),)): (
        Invariant.FENCE,
        Invariant.STALE_WRITE,
    ),
    Mutant(
        "the fence is in the record only",
        edits=(("claim", _FENCE, "fence = string.format('%.0f', (tonumber(fence or '') or 0) + 1)"),),
    ): (Invariant.FENCE,),
    Mutant("the fence is the clock only", edits=(("claim", _FENCE, "fence = string.format('%.0f', now_us)"),)): (
        Invariant.FENCE,
    ),
    Mutant("completed before the effect", completes_before_the_effect=True): (Invariant.ONE_EFFECT,),
    Mutant(
        "release deletes the record",
        edits=(
            ("release", "redis.call('HDEL', record, 'owner', 'deadline', 'who')", "redis.call('DEL', record)"),
            ("release", "redis.call('HSET', record, 'state', 'released')", ""),
        ),
    ): (Invariant.RETENTION, Invariant.ATTEMPT),
    Mutant("held is acknowledged and dropped", drops_what_is_held=True): (Invariant.ONE_EFFECT,),
    Mutant("claim checks, then sets", checks_then_sets=True): (Invariant.ONE_HOLDER,),
    Mutant("the result is not stored", edits=(("complete", "if result then", "if false then"),)): (Invariant.FINAL,),
    Mutant("the digest is not compared", edits=(("claim", "if known_digest ~= digest then", "if false then"),)): (
        Invariant.DIGEST,
    ),
    Mutant("expiry by the clock of the worker", edits=(("claim", MODEL_TIME, WORKER_TIME),)): (
        Invariant.ONE_HOLDER,
        Invariant.PROGRESS,
    ),
    Mutant("the deadline counts from the reply", counts_from_the_reply=True): (Invariant.BELIEF,),
    Mutant(
        "the deadline is not rounded up",
        edits=(("claim", _ROUNDED_UP, _NOT_ROUNDED), ("renew", _ROUNDED_UP, _NOT_ROUNDED)),
    ): (Invariant.ONE_HOLDER,),
    Mutant(
        "claim does not know its own token",
        edits=(("claim", "if state == 'claimed' and holder == owner then", "if false then"),),
    ): (Invariant.PROGRESS,),
    Mutant("claim runs again what is completed", edits=(("claim", "if state == 'completed' then", "if false then"),)): (
        Invariant.FINAL,
    ),
    Mutant("the attempt is not counted", edits=(("claim", "(tonumber(attempt or '') or 0) + 1", "1"),)): (
        Invariant.ATTEMPT,
    ),
    Mutant(
        "complete does not prolong the retention",
        edits=(("complete", "redis.call('PEXPIRE', record, retention_ms)", ""),),
    ): (Invariant.RETENTION,),
}


@pytest.mark.parametrize(
    ("mutant", "watched"),
    [pytest.param(mutant, one, id=f"{mutant}-{one.name}") for mutant, each in MUTANTS.items() for one in each],
)
def test_model_catches_a_mistake(client: Any, mutant: Mutant, watched: Invariant) -> None:
    with pytest.raises(Violation) as caught:
        explore(client, mutant, {watched}, 1000)
    assert caught.value.invariant is watched
    assert client.dbsize() == 0


def test_model_of_the_protocol_keeps_every_invariant(client: Any) -> None:
    explore(client, Mutant(), frozenset(Invariant), 250, Phase.shrink)
    assert client.dbsize() == 0
