"""The state machine of ``test_model``: workers that follow the program of ``dedup_lock``, their receivers, and the world
around them.

Over 300 lines: the rules share one state, and each is a few lines.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tasks_demo.core.exceptions import LeaseStoreUnavailable
from tasks_demo.leases import redis_store
from tasks_demo.leases.keys import record_key
from tasks_demo.leases.lua import Script
from tasks_demo.leases.protocol import Claimed, Completed, Held, Mismatch
from tests.integration.leases.protocol_model import (
    FINE,
    LEASE_SECONDS,
    LEASE_US,
    LINKS,
    PREFIX,
    RETENTION_SECONDS,
    RETENTION_US,
    ROUNDING_US,
    Clock,
    Invariant,
    Judge,
    Link,
    Mutant,
    Wire,
    scripts_of,
)
from tests.integration.servers.redis import EMBEDDED, RedisServer

T = TypeVar("T")
SEED = 1
WORKERS = 3
#: How far each worker's clock is ahead; the last worker is the one that runs at the end.
SKEWS_US = (0, LEASE_US * 2, -LEASE_US * 2, 0)
DIGEST, OTHER = "d" * 64, "e" * 64

WAITS_US = (
    1,
    999,
    LEASE_US // 3,
    LEASE_US - 1000,
    LEASE_US,
    LEASE_US + ROUNDING_US,
    RETENTION_US - LEASE_US,
    RETENTION_US,
)


@dataclass(frozen=True)
class Delivery:
    """A message; its digest stands for the operation's arguments."""

    operation: str
    digest: str


ONE, ONE_OTHERWISE, TWO = Delivery("one", DIGEST), Delivery("one", OTHER), Delivery("two", DIGEST)


class Refused(Exception):
    """A receiver rejected the write."""


class Receivers:
    """The receivers of effects: one honours the operation key, the other the fence."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.effects: dict[str, list[str]] = {}
        #: The fence of the current write, and the number of the claim that wrote it, which is also the value written.
        self.standing: dict[str, tuple[int, int]] = {}

    def effect(self, delivery: Delivery, fence: int, number: int) -> None:
        """Both effects of one body. Raises Refused, like a body that got a 422 or a 412."""
        done = self.effects.setdefault(delivery.operation, [])
        if not done:
            done.append(delivery.digest)
        elif done[0] != delivery.digest:
            raise Refused("the key was used with other arguments")
        highest, latest = self.standing.get(delivery.operation, (0, 0))
        if fence < highest:
            raise Refused("the fence is too low")
        self.judge.require(Invariant.STALE_WRITE, number >= latest, f"claim {number} wrote after claim {latest}")
        self.standing[delivery.operation] = (fence, number)


class Worker:
    """Follows the program of ``dedup_lock`` step by step; a worker that takes no further step is a zombie."""

    def __init__(self, world: World, number: int, ahead_us: int) -> None:
        self.world = world
        self.name = f"worker {number}"
        self.ahead_us = ahead_us
        self.stop()

    def stop(self) -> None:
        """Drop everything it holds; a death leaves the same state."""
        self.delivery: Delivery | None = None
        self.lease: Claimed | None = None
        self.deadline_us = 0
        self.number = 0
        self.has_effect = False
        self.has_completed = False

    @property
    def holding(self) -> tuple[Delivery, Claimed]:
        assert self.delivery is not None
        assert self.lease is not None
        return self.delivery, self.lease

    @property
    def running(self) -> bool:
        return self.delivery is not None

    @property
    def can_effect(self) -> bool:
        return (
            self.running and not self.has_effect and self.has_completed == self.world.mutant.completes_before_the_effect
        )

    @property
    def can_complete(self) -> bool:
        return (
            self.running and not self.has_completed and self.has_effect != self.world.mutant.completes_before_the_effect
        )

    def receive(self, delivery: Delivery, link: Link, over: int | None = None) -> float:
        """Claim. Returns the seconds left to the holder if the delivery was requeued for that, else 0."""
        world = self.world
        world.wire.use(link, self.ahead_us)
        try:
            reply = world.store.claim(delivery.operation, delivery.digest, self.name, over)
            if isinstance(reply, Held) and (delivery.operation, reply.fence) in world.gone:
                # Anything may happen between the two calls; the fence identifies the claim to take over.
                reply = world.store.claim(delivery.operation, delivery.digest, self.name, reply.fence)
        except LeaseStoreUnavailable:
            world.queue.append(delivery)
            return 0
        match reply:
            case Claimed():
                self.delivery, self.lease = delivery, reply
                self.number = world.judge.grants[key_of(delivery)]
                self._believe(reply.deadline)
            case Held(seconds_left=seconds):
                if not world.mutant.drops_what_is_held:
                    world.queue.append(delivery)
                return seconds
            case Completed() | Mismatch():
                pass
        return 0

    def _believe(self, deadline: float) -> None:
        if self.world.mutant.counts_from_the_reply:
            deadline = self.world.clock.monotonic() + LEASE_SECONDS
        self.deadline_us = round(deadline * 1e6)

    def renew(self, link: Link) -> None:
        """Renew as the heartbeat does, also as a zombie: a renewal sent in time may arrive late."""
        _, lease = self.holding
        self.world.wire.use(link, self.ahead_us)
        try:
            deadline = self.world.store.renew(lease)
        except LeaseStoreUnavailable:
            return
        if deadline is None:
            self.deadline_us = 0
        else:
            self._believe(deadline)

    def effect(self) -> None:
        """Run the body. A rejected write fails the body: the lease is released, and the delivery ends as failed."""
        delivery, lease = self.holding
        try:
            self.world.receivers.effect(delivery, lease.fence, self.number)
        except Refused:
            self._release(FINE)
            self.stop()
            return
        self.has_effect = True
        self._end()

    def complete(self, link: Link, with_result: bool) -> None:
        """Store the result with the marker. If the store does not confirm it, the delivery is requeued."""
        _, lease = self.holding
        self.world.wire.use(link, self.ahead_us)
        try:
            done = self.world.store.complete(lease, json.dumps(self.number) if with_result else None)
        except LeaseStoreUnavailable:
            done = False
        if not done:
            self.give_up()
            return
        self.has_completed = True
        self._end()

    def _end(self) -> None:
        if self.has_effect and self.has_completed:
            self.stop()

    def fail(self, link: Link) -> None:
        """The body raises and asks for a retry."""
        self._release(link)
        self.give_up()

    def _release(self, link: Link) -> None:
        self.world.wire.use(link, self.ahead_us)
        with contextlib.suppress(LeaseStoreUnavailable):
            self.world.store.release(self.holding[1])

    def give_up(self) -> None:
        """Dead or without an answer: the broker redelivers."""
        self.world.queue.append(self.holding[0])
        self.stop()


def key_of(delivery: Delivery) -> str:
    return record_key(PREFIX, delivery.operation)


class World:
    """The state of one example: the store, the broker's queue, the workers and the receivers."""

    def __init__(
        self,
        client: Any,
        scripts: dict[str, Script],
        mutant: Mutant,
        watched: Collection[Invariant],
    ) -> None:
        self.mutant = mutant
        self.clock = Clock()
        self.judge = Judge(self.clock, watched)
        self.wire: Any = Wire(client, scripts, self.clock, self.judge)
        self.store = redis_store.RedisLeaseStore(self.wire, PREFIX, LEASE_SECONDS, RETENTION_SECONDS)
        self.receivers = Receivers(self.judge)
        self.queue: list[Delivery] = []
        self.delivered: set[Delivery] = set()
        #: Fences of claims whose worker is known to have died.
        self.gone: set[tuple[str, int]] = set()
        self.workers = [Worker(self, number, skew) for number, skew in enumerate(SKEWS_US)]

    def publish(self, delivery: Delivery) -> None:
        self.delivered.add(delivery)
        self.queue.append(delivery)

    def settle(self) -> None:
        """Finish the example: redeliver and run what is in flight, wake the zombies, deliver the last copies."""
        *paused, fresh = self.workers
        zombies = [worker for worker in paused if worker.running]
        self.queue.extend(worker.holding[0] for worker in zombies)
        self._drain(fresh)
        for zombie in zombies:
            self._finish(zombie)
        self._drain(fresh)
        while self.wire.late:
            self.wire.execute(self.wire.late.pop(0)[1])
        self.check_results()
        for operation in sorted({delivery.operation for delivery in self.delivered}):
            effects = self.receivers.effects.get(operation, [])
            self.judge.require(Invariant.ONE_EFFECT, len(effects) == 1, f"{operation} ended with effects {effects}")
            # After a retention gap, a job with the same key and other arguments may have run first; this one then fails.
            if len([delivery for delivery in self.delivered if delivery.operation == operation]) == 1:
                completed = record_key(PREFIX, operation) in self.judge.ever_completed
                self.judge.require(Invariant.ONE_EFFECT, completed, f"{operation} was never completed")

    def _drain(self, worker: Worker) -> None:
        for _ in range(5 * len(self.queue)):
            if not self.queue:
                break
            seconds_left = worker.receive(self.queue.pop(0), FINE)
            self._finish(worker)
            self.wire.wait(round(seconds_left * 1e6))
        self.judge.require(Invariant.ONE_EFFECT, not self.queue, f"still waiting: {self.queue}")

    def _finish(self, worker: Worker) -> None:
        while worker.running:
            if worker.can_effect:
                worker.effect()
            else:
                worker.complete(FINE, with_result=True)

    def check_results(self) -> None:
        for operation, (_, number) in self.receivers.standing.items():
            known = self.judge.records.get(record_key(PREFIX, operation))
            if known is not None and known.completed and known.result is not None:
                same = json.loads(known.result) == number
                self.judge.require(Invariant.RESULT, same, f"claim {number} wrote; {known.result} is stored")

    def check_beliefs(self) -> None:
        believers: dict[str, int] = {}
        for worker in self.workers:
            if not worker.running or worker.has_completed or self.clock.elapsed_us >= worker.deadline_us:
                continue
            delivery, lease = worker.holding
            grant = self.judge.known(key_of(delivery)).grant
            ours = grant is not None and not grant.over and grant.token == lease.owner
            until = grant.until_us - self.clock.ahead_us if grant is not None and ours else 0
            said = f"{lease} is believed until {worker.deadline_us}, given until {until}"
            self.judge.require(Invariant.BELIEF, worker.deadline_us <= until, said)
            believers[delivery.operation] = believers.get(delivery.operation, 0) + 1
        self.judge.require(Invariant.ONE_HOLDER, all(n == 1 for n in believers.values()), f"believers: {believers}")


def some(things: Sequence[T], number: int) -> T:
    return things[number % len(things)]


numbers = st.sampled_from(range(12))
links = st.sampled_from(LINKS)


class LeaseMachine(RuleBasedStateMachine):
    """Any order of steps of three workers, the clock, the network and the broker."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.clocks = patch.object(redis_store, "time", world.clock)
        self.clocks.start()

    def some(self, number: int, which: Callable[[Worker], bool]) -> Worker:
        return some([worker for worker in self.world.workers[:WORKERS] if which(worker)], number)

    def any(self, which: Callable[[Worker], bool]) -> bool:
        return any(map(which, self.world.workers[:WORKERS]))

    @initialize()
    def first_delivery(self) -> None:
        """Deliver twice, as brokers sometimes do."""
        self.world.publish(ONE)
        self.world.publish(ONE)

    @precondition(lambda self: len(self.world.queue) < 5)
    @rule(delivery=st.sampled_from([ONE, ONE, ONE_OTHERWISE, TWO]))
    def publish(self, delivery: Delivery) -> None:
        self.world.publish(delivery)

    @precondition(lambda self: self.world.queue and self.any(lambda worker: not worker.running))
    @rule(number=numbers, message=numbers, link=links)
    def receive(self, number: int, message: int, link: Link) -> None:
        queue = self.world.queue
        self.some(number, lambda worker: not worker.running).receive(queue.pop(message % len(queue)), link)

    @precondition(lambda self: self.twins() and sum(not worker.running for worker in self.world.workers[:WORKERS]) > 1)
    @rule(number=numbers)
    def receive_at_once(self, number: int) -> None:
        """While one worker's claim is on its way, another worker claims the same operation."""
        first, second = [worker for worker in self.world.workers[:WORKERS] if not worker.running][:2]
        delivery = some(self.twins(), number)
        self.world.queue.remove(delivery)
        self.world.queue.remove(delivery)
        self.world.wire.meanwhile = lambda: second.receive(delivery, FINE)
        first.receive(delivery, FINE)

    def twins(self) -> list[Delivery]:
        return [delivery for delivery in (ONE, ONE_OTHERWISE, TWO) if self.world.queue.count(delivery) > 1]

    @precondition(lambda self: self.any(lambda worker: worker.running))
    @rule(number=numbers, link=links)
    def renew(self, number: int, link: Link) -> None:
        self.some(number, lambda worker: worker.running).renew(link)

    @precondition(lambda self: self.any(lambda worker: worker.can_effect))
    @rule(number=numbers)
    def effect(self, number: int) -> None:
        self.some(number, lambda worker: worker.can_effect).effect()

    @precondition(lambda self: self.any(lambda worker: worker.can_complete))
    @rule(number=numbers, link=links, with_result=st.sampled_from([True, True, False]))
    def complete(self, number: int, link: Link, with_result: bool) -> None:
        self.some(number, lambda worker: worker.can_complete).complete(link, with_result)

    @precondition(lambda self: self.any(lambda worker: worker.running))
    @rule(number=numbers, link=links)
    def fail(self, number: int, link: Link) -> None:
        self.some(number, lambda worker: worker.running).fail(link)

    @precondition(lambda self: self.any(lambda worker: worker.running))
    @rule(number=numbers)
    def die(self, number: int) -> None:
        self.some(number, lambda worker: worker.running).give_up()

    @precondition(lambda self: self.any(lambda worker: worker.running))
    @rule(number=numbers)
    def be_seen_dying(self, number: int) -> None:
        """The next worker to claim on the same machine knows that the holder is dead."""
        worker = self.some(number, lambda worker: worker.running)
        self.world.gone.add((worker.holding[0].operation, worker.holding[1].fence))
        worker.give_up()

    @precondition(lambda self: self.world.queue and self.any(lambda worker: not worker.running))
    @rule(number=numbers, message=numbers)
    def claim_over_a_claim_of_the_past(self, number: int, message: int) -> None:
        """Another worker takes over between the reply that named a dead holder and the second claim."""
        worker = self.some(number, lambda worker: not worker.running)
        delivery = some(self.world.queue, message)
        self.world.queue.remove(delivery)
        worker.receive(delivery, FINE, over=min((fence for _, fence in self.world.gone), default=1))

    @precondition(lambda self: len(self.world.queue) < 5 and self.any(lambda worker: worker.running))
    @rule(number=numbers)
    def deliver_again(self, number: int) -> None:
        """The broker takes a slow worker for dead and redelivers."""
        self.world.publish(self.some(number, lambda worker: worker.running).holding[0])

    @precondition(lambda self: self.any(lambda worker: worker.running) and self.any(lambda worker: not worker.running))
    @rule(number=numbers)
    def overtake(self, number: int) -> None:
        """A worker pauses for longer than its lease, is taken for dead, and another worker gets its delivery."""
        delivery, _ = self.some(number, lambda worker: worker.running).holding
        self.world.publish(delivery)
        self.world.wire.wait(LEASE_US + ROUNDING_US)
        self.some(number, lambda worker: not worker.running).receive(self.world.queue.pop(), FINE)

    @rule(microseconds=st.sampled_from(WAITS_US))
    def wait(self, microseconds: int) -> None:
        self.world.wire.wait(microseconds)

    @precondition(lambda self: any(known.grant for known in self.world.judge.records.values()))
    @rule(number=numbers, microseconds=st.sampled_from([-1, 0, 1, ROUNDING_US]))
    def wait_for_the_end_of_a_lease(self, number: int, microseconds: int) -> None:
        given = [known.grant.until_us for known in self.world.judge.records.values() if known.grant]
        self.world.wire.wait(max(0, some(given, number) - self.world.clock.redis_us + microseconds))

    @rule(microseconds=st.sampled_from([1, 1000, LEASE_US]))
    def set_the_clock_of_redis_back(self, microseconds: int) -> None:
        """By less than the retention per example: beyond that, once the record is gone, nothing is guaranteed."""
        self.world.clock.ahead_us -= microseconds

    @precondition(lambda self: self.world.wire.late)
    @rule(number=numbers)
    def a_late_copy_arrives(self, number: int) -> None:
        late = self.world.wire.late
        self.world.wire.execute(late.pop(number % len(late))[1])

    @invariant()
    def beliefs_are_right(self) -> None:
        self.world.check_beliefs()

    @invariant()
    def results_are_right(self) -> None:
        self.world.check_results()

    def teardown(self) -> None:
        try:
            if not self.world.judge.broken:
                self.world.settle()
        finally:
            self.clocks.stop()
            self.world.wire.clean_up()


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A client of a separate server that does not wait for its disk."""
    with (
        tempfile.TemporaryDirectory(prefix="locks-") as folder,
        RedisServer(Path(folder), EMBEDDED, "--appendonly", "no") as server,
        server.client() as client,
    ):
        yield client


def explore(client: Any, mutant: Mutant, watched: Collection[Invariant], examples: int, *phases: Phase) -> None:
    """Run the machine; raises Violation. The examples depend on the seed alone, so every run has the same ones."""
    scripts = scripts_of(mutant)
    for lua in scripts.values():
        assert client.script_load(lua.source) == lua.sha

    @seed(SEED)
    def machine() -> LeaseMachine:
        return LeaseMachine(World(client, scripts, mutant, watched))

    chosen = settings(
        max_examples=examples,
        stateful_step_count=30,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate, *phases],
        report_multiple_bugs=False,
        verbosity=Verbosity.normal if mutant == Mutant() else Verbosity.quiet,
        # The duration of a step depends on the computer, not on the lease.
        suppress_health_check=[HealthCheck.too_slow],
    )
    with patch.object(redis_store, "script", scripts.__getitem__):
        run_state_machine_as_test(machine, settings=chosen)  # type: ignore[arg-type]  # it calls it, no more
