"""The protocol as a state machine: no message is nowhere, and each has one owner at a time. Its mutants are caught."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.integration.servers.redis import EMBEDDED, RedisServer
from tests.integration.transport.transport_machine import Mortal, TransportMachine, scripts_of

pytestmark = pytest.mark.timeout(170)
SEED = 20261127
EXAMPLES = 20
#: Enough to catch every mutant.
EXAMPLES_FOR_MUTANTS = 40


#: Script, and what is replaced in it. One for each way to break an invariant: every one takes a second of the suite's time.
MUTANTS = {
    "a publisher wakes nobody": ("publish", ("  redis.call('LPUSH', KEYS[2], '1')\n", "")),
    "a dead owner claims": ("claim", ("redis.call('HEXISTS', KEYS[1], owner) == 0", "false")),
    "a claim names no owner": ("claim", ("          redis.call('ZADD', KEYS[2], number, token)\n", "")),
    "a claim wakes nobody for the rest": ("claim", ("        redis.call('LPUSH', wake, '1')\n", "")),
    "an acknowledgement leaves the index": ("acknowledge", ("    redis.call('ZREM', KEYS[3], token)\n", "")),
    "a message is requeued twice": (
        "requeue",
        ("redis.call('ZREM', KEYS[1], token) == 1", "redis.call('ZREM', KEYS[1], token)"),
        ("redis.call('HDEL', KEYS[2], token) == 1", "redis.call('HDEL', KEYS[2], token)"),
    ),
    "a message is not requeued": ("requeue", ("      redis.call(ARGV[1], list, message)\n", "")),
    "a dead owner registers again": (
        "register",
        ("redis.call('SISMEMBER', KEYS[3], ARGV[1]) == 1", "false"),
        ("ARGV[3] == '0' and", "false and"),
    ),
    "a dead owner's heart beats": ("beat", ("redis.call('HEXISTS', KEYS[1], me) == 0", "false")),
    "a dead owner is forgotten": ("declare_dead", ("redis.call('SADD', KEYS[4], ARGV[1])\n", "")),
}


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A client of a server that does not wait for its disk."""
    with (
        tempfile.TemporaryDirectory(prefix="transport-") as folder,
        RedisServer(Path(folder), EMBEDDED, "--appendonly", "no") as server,
        Mortal(unix_socket_path=str(server.socket)) as client,
    ):
        yield client


def explore(client: Any, mutant: tuple[Any, ...], examples: int) -> None:
    """Run the machine; the examples depend on the seed alone."""
    scripts = scripts_of(*mutant)

    @seed(SEED)
    def machine() -> TransportMachine:
        return TransportMachine(client, scripts)

    chosen = settings(
        max_examples=examples,
        stateful_step_count=40,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=chosen)  # type: ignore[arg-type]  # it calls it, no more


def test_model_loses_nothing_and_has_one_owner_at_a_time(client: Any) -> None:
    explore(client, (), EXAMPLES)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_model_catches_each_mutant_of_a_script(client: Any, mutant: str) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011  # a violation, or the code that trips over the damage
        explore(client, MUTANTS[mutant], EXAMPLES_FOR_MUTANTS)
