"""Any order of steps of publishers, consumers and watchers, by the transport's own code and scripts on a real Redis.

What is watched after every step: each message is in exactly one place, whoever holds it is known to be its only holder, and a
queue that is not empty has a marker.

Over 300 lines: the steps share one state, and each is a few lines.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tasks_demo.transport import claims, dead_letters, redelivery
from tasks_demo.transport.claims import Claims, claim_command, claimed
from tasks_demo.transport.keys import Keys, Lists
from tasks_demo.transport.lua import Script, script
from tasks_demo.transport.messages import Item
from tasks_demo.transport.owner import owner_of
from tasks_demo.transport.redelivery import Redelivery

PREFIX = "m:"
QUEUES = ("one", "two")
LIMIT = 3
KEYS, LISTS = Keys(PREFIX), Lists("\x06\x16", [0, 9])
EVERY_LIST = {queue: [PREFIX + LISTS.at(queue, step) for step in LISTS.steps] for queue in QUEUES}


class Violation(AssertionError):
    """An invariant does not hold."""


def require(holds: object, what: str) -> None:
    if not holds:
        raise Violation(what)


class Killed(Exception):
    """The process that was at work is no more."""


class Mortal(redis.Redis):
    """A client whose process is killed before its n-th command."""

    left: float = float("inf")

    def execute_command(self, *args: Any, **options: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise Killed
        return super().execute_command(*args, **options)


@dataclass
class Consumer:
    """A consuming process. ``declared``: dead for the others; ``alive``: it can act, fenced or not."""

    owner: str
    claims: Claims
    beat: int = 1
    declared: bool = False
    alive: bool = True
    watched: str = "0 - 15"


@dataclass
class World:
    client: Any
    scripts: dict[str, Script]
    consumers: list[Consumer] = field(default_factory=list)
    #: Message -> True while somebody is still owed it.
    owed: dict[int, bool] = field(default_factory=dict)
    #: What somebody saw of an owner some time ago: (consumer, watched, beat).
    seen: list[tuple[Consumer, str, int]] = field(default_factory=list)
    #: What somebody read of an owner's messages some time ago.
    stale: list[tuple[str, list[Item]]] = field(default_factory=list)

    def run(self, name: str, keys: list[str], args: list[Any]) -> Any:
        return self.scripts[name].run(self.client, keys, args)

    def arrive(self) -> Consumer:
        owner = f"h-0:{len(self.consumers) + 1}:x"
        moves = Redelivery(KEYS, LISTS, LIMIT)
        consumer = Consumer(owner, Claims(owner, KEYS, self.client, moves, (Killed,)))
        require(self.register(consumer, new=True) == 1, "a new owner is refused")
        self.consumers.append(consumer)
        return consumer

    def register(self, consumer: Consumer, new: bool) -> int:
        keys = [KEYS.owners, KEYS.beats, KEYS.dead]
        return int(self.run("register", keys, [consumer.owner, consumer.watched, "1" if new else "0"]))

    def publish(self, queue: str, priority: int) -> None:
        number = len(self.owed)
        self.owed[number] = True
        payload = {"body": "", "headers": {"id": number}, "properties": {"delivery_info": {}, "priority": priority}}
        self.run("publish", [PREFIX + LISTS.of(queue, payload), KEYS.wake(queue)], [json.dumps(payload), ""])

    def claim(self, consumer: Consumer, want: int, arrives: bool) -> None:
        number = next(consumer.claims.numbers)
        queues = [(queue, False) for queue in QUEUES]
        if not consumer.declared:  # what ended its wait
            any(self.client.rpop(KEYS.wake(queue)) for queue in QUEUES)
        reply = self.run("claim", *claim_command(KEYS, LISTS, consumer.owner, number, want, queues))
        if consumer.declared:
            require(reply[0] == b"fenced", "an owner that was declared dead takes messages")
            return
        require(reply[0] != b"fenced", "a living owner takes nothing")
        if arrives:
            consumer.claims.held |= {item.token: item for item, _ in claimed(consumer.owner, number, queues, reply)}
        else:
            consumer.claims.audit_due = True

    def held(self, owner: str) -> list[str]:
        return [token.decode() for token in self.client.zrange(KEYS.held(owner), 0, -1)]

    def items(self, owner: str) -> list[Item]:
        found, _ = Redelivery(KEYS, LISTS, LIMIT).items(self.client, self.held(owner)[::-1])
        return found

    def acknowledge(self, consumer: Consumer, token: str) -> None:
        counts = token in self.held(consumer.owner)
        number = number_of(consumer.claims.held[token].raw)
        before = self.where()[number]
        consumer.claims.acknowledge(token)
        if counts:
            self.owed[number] = False
        else:
            require(self.where()[number] == before, "a late acknowledgement has removed a message")

    def places(self) -> Iterator[tuple[int, str]]:
        for lists in EVERY_LIST.values():
            for key in lists:
                for raw in self.client.lrange(key, 0, -1):
                    yield number_of(raw), key
        for token, record in self.client.hgetall(KEYS.unacked).items():
            yield number_of(redelivery.read_record(token.decode(), record).raw), token.decode()
        for letter in dead_letters.list_dead_letters(self.client, PREFIX, limit=1000):
            yield number_of(letter.raw), "letters"

    def where(self) -> Counter[int]:
        return Counter(number for number, _ in self.places())

    def check(self) -> None:
        found = self.where()
        for number, owed in self.owed.items():
            require(found[number] == owed, f"message {number}: owed {owed}, found {found[number]} times")
        records = {token.decode() for token in self.client.hkeys(KEYS.unacked)}
        index = {token.decode() for token in self.client.zrange(KEYS.unacked_index, 0, -1)}
        holders = [token for consumer in self.consumers for token in self.held(consumer.owner)]
        require(len(holders) == len(set(holders)), "a message has two owners")
        require(set(holders) == records == index, f"held {holders}, recorded {records}, indexed {index}")
        require(
            all(
                owner_of(token) == consumer.owner for consumer in self.consumers for token in self.held(consumer.owner)
            ),
            "?",
        )
        for consumer in self.consumers:
            if consumer.alive and not consumer.declared and not consumer.claims.audit_due:
                mine = set(self.held(consumer.owner))
                require(mine == consumer.claims.held.keys(), f"{consumer.owner} lives, and its messages were moved")
        for queue, lists in EVERY_LIST.items():
            queued = sum(self.client.llen(key) for key in lists)
            require(not queued or self.client.exists(KEYS.wake(queue)), f"nobody is woken for {queue}")
        for consumer in self.consumers:
            known = self.client.hexists(KEYS.owners, consumer.owner)
            require(known != consumer.declared, "an owner is both dead and alive, or neither")
            if consumer.declared and self.held(consumer.owner):
                require(
                    self.client.sismember(KEYS.dead, consumer.owner), "nobody knows that a dead owner holds messages"
                )

    def settle(self) -> None:
        """Everybody dies, and one newcomer finishes all."""
        for consumer in self.consumers:
            if not consumer.declared:
                self.declare(consumer, consumer.watched, consumer.beat)
        newcomer = self.arrive()
        for name in self.client.smembers(KEYS.dead):
            Redelivery(KEYS, LISTS, LIMIT).recover(self.client, name.decode())
        for letter in dead_letters.list_dead_letters(self.client, PREFIX, limit=1000):
            require(dead_letters.requeue_dead_letter(self.client, letter.token, PREFIX), "a dead letter is stuck")
        self.check()
        require(not self.client.scard(KEYS.dead), "a dead owner is never done with")
        for _ in range(2 * len(self.owed) + 2):
            self.claim(newcomer, 16, arrives=True)
            for token in list(newcomer.claims.held):
                self.acknowledge(newcomer, token)
        self.check()
        require(not any(self.owed.values()), "a message is never delivered")

    def declare(self, consumer: Consumer, watched: str, beat: int) -> None:
        due = not consumer.declared and (watched, beat) == (consumer.watched, consumer.beat)
        keys = [KEYS.owners, KEYS.beats, KEYS.watcher, KEYS.dead]
        done = bool(self.run("declare_dead", keys, [consumer.owner, watched, str(beat)]))
        require(done == due, f"declared: {done}, although something was heard since: {not due}")
        consumer.declared = consumer.declared or done


def number_of(raw: bytes) -> int:
    return int(json.loads(raw)["headers"]["id"])


numbers = st.integers(0, 11)


class TransportMachine(RuleBasedStateMachine):
    """Three consumers at the start; more arrive."""

    def __init__(self, client: Any, scripts: dict[str, Script]) -> None:
        super().__init__()
        client.flushdb()
        client.left = float("inf")
        self.world = World(client, scripts)
        self.patches = contextlib.ExitStack()
        for module in (claims, dead_letters, redelivery):
            self.patches.enter_context(patch.object(module, "script", scripts.__getitem__))
        self.patches.enter_context(patch.object(redelivery, "BATCH", 2))
        for _ in range(3):
            self.world.arrive()

    def one(self, number: int, *, declared: bool | None = None, alive: bool | None = True) -> Consumer | None:
        some = [
            consumer
            for consumer in self.world.consumers
            if declared in (None, consumer.declared) and alive in (None, consumer.alive)
        ]
        return some[number % len(some)] if some else None

    @rule(queue=st.sampled_from(QUEUES), priority=st.sampled_from([0, 9]))
    def publish(self, queue: str, priority: int) -> None:
        self.world.publish(queue, priority)

    @rule(number=numbers, want=st.integers(1, 4), arrives=st.sampled_from([True, True, False]))
    def claim(self, number: int, want: int, arrives: bool) -> None:
        if consumer := self.one(number):
            self.world.claim(consumer, want, arrives)

    @rule(number=numbers, which=numbers)
    def acknowledge(self, number: int, which: int) -> None:
        consumer = self.one(number)
        if consumer and consumer.claims.held:
            tokens = list(consumer.claims.held)
            self.world.acknowledge(consumer, tokens[which % len(tokens)])

    @rule(number=numbers, which=numbers)
    def acknowledge_late(self, number: int, which: int) -> None:
        """One that was declared dead, and does not know."""
        consumer = self.one(number, declared=True)
        if consumer and consumer.claims.held:
            tokens = list(consumer.claims.held)
            self.world.acknowledge(consumer, tokens[which % len(tokens)])

    @rule(number=numbers, which=numbers, first=st.booleans())
    def requeue(self, number: int, which: int, first: bool) -> None:
        consumer = self.one(number)
        if consumer and consumer.claims.held:
            items = list(consumer.claims.held.values())
            consumer.claims.requeue([items[which % len(items)]], first=first)

    @rule(number=numbers)
    def dead_letter(self, number: int) -> None:
        """What it holds turns out to be no message."""
        consumer = self.one(number)
        if consumer and consumer.claims.held:
            consumer.claims.dead_letter(next(iter(consumer.claims.held.values())), "garbage")

    @rule(number=numbers)
    def audit(self, number: int) -> None:
        if consumer := self.one(number, declared=False):
            consumer.claims.audit(self.world.client)

    @rule(number=numbers)
    def beat(self, number: int) -> None:
        if consumer := self.one(number):
            reply = self.world.run("beat", [KEYS.owners, KEYS.beats, KEYS.watcher, KEYS.dead], [consumer.owner, 60_000])
            require((reply[0] == b"fenced") == consumer.declared, "an owner is told the wrong thing of itself")
            consumer.beat += not consumer.declared

    @rule(number=numbers)
    def register_again(self, number: int) -> None:
        """Its connection broke."""
        if consumer := self.one(number):
            before, consumer.watched = consumer.watched, f"{len(self.world.seen) + consumer.beat + 100} - 15"
            done = self.world.register(consumer, new=False)
            require(bool(done) != consumer.declared, "an owner that was declared dead is back")
            if done:
                consumer.beat += 1
            else:
                consumer.watched = before

    @precondition(lambda self: len(self.world.consumers) < 6)
    @rule()
    def arrive(self) -> None:
        self.world.arrive()

    @rule(number=numbers)
    def die(self, number: int) -> None:
        if consumer := self.one(number):
            consumer.alive = False

    @rule(number=numbers)
    def look(self, number: int) -> None:
        if consumer := self.one(number, declared=False, alive=None):
            self.world.seen.append((consumer, consumer.watched, consumer.beat))

    @precondition(lambda self: self.world.seen)
    @rule(number=numbers)
    def declare(self, number: int) -> None:
        """By what was seen some time ago."""
        self.world.declare(*self.world.seen.pop(number % len(self.world.seen)))

    @rule(number=numbers)
    def declare_at_once(self, number: int) -> None:
        if consumer := self.one(number, declared=False, alive=None):
            self.world.declare(consumer, consumer.watched, consumer.beat)

    @rule(number=numbers, commands=st.sampled_from([1, 2, 3, 4, 5, 6, 99]))
    def recover(self, number: int, commands: int) -> None:
        """The watcher may be killed in the middle."""
        if consumer := self.one(number, declared=True, alive=None):
            self.world.client.left = commands
            with contextlib.suppress(Killed):
                Redelivery(KEYS, LISTS, LIMIT).recover(self.world.client, consumer.owner)
            self.world.client.left = float("inf")

    @rule(number=numbers)
    def read_what_a_dead_owner_holds(self, number: int) -> None:
        if consumer := self.one(number, declared=True, alive=None):
            self.world.stale.append((consumer.owner, self.world.items(consumer.owner)))

    @rule(number=numbers)
    def recover_by_two_at_once(self, number: int) -> None:
        if consumer := self.one(number, declared=True, alive=None):
            items = self.world.items(consumer.owner)
            Redelivery(KEYS, LISTS, LIMIT).recover(self.world.client, consumer.owner)
            Redelivery(KEYS, LISTS, LIMIT).requeue(self.world.client, consumer.owner, items, died=True)

    @precondition(lambda self: self.world.stale)
    @rule(number=numbers)
    def requeue_what_was_read_before(self, number: int) -> None:
        """A second watcher, or the same after a pause."""
        owner, items = self.world.stale.pop(number % len(self.world.stale))
        Redelivery(KEYS, LISTS, LIMIT).requeue(self.world.client, owner, items, died=True)

    @rule(which=numbers, twice=st.booleans())
    def decide_about_a_dead_letter(self, which: int, twice: bool) -> None:
        letters = dead_letters.list_dead_letters(self.world.client, PREFIX)
        if letters:
            letter = letters[which % len(letters)]
            text = [KEYS.dead_letters, KEYS.dead_letters_index, letter.list_key, KEYS.wake(letter.queue)]
            for place in range(1 + twice):
                done = self.world.run("revive", text, [letter.token, letter.raw])
                require(bool(done) == (place == 0), "a decision counts twice")

    @invariant()
    def nothing_is_nowhere(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        try:
            self.world.settle()
        finally:
            self.patches.close()


def scripts_of(name: str = "", *pieces: tuple[str, str]) -> dict[str, Script]:
    """All scripts, with pieces of one of them replaced."""
    names = [
        "publish",
        "claim",
        "acknowledge",
        "requeue",
        "dead_letter",
        "revive",
        "register",
        "beat",
        "declare_dead",
        "renew",
    ]
    found = {known: script(known) for known in names}
    for old, new in pieces:
        source = found[name].source
        assert source.count(old) == 1, f"{name}.lua has {source.count(old)} times: {old}"
        found[name] = Script.of(name, source.replace(old, new))
    return found
