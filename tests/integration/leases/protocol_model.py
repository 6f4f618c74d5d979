"""A model of the lease: a clock that the test moves, a network that loses and delays, and a judge of every script call.

The production scripts run with one substitution: ``TIME`` is read from a key that the test writes. Redis expires records by
its own clock, so the test expires them by the model's clock, and checks that each call set the right time to live.
A mutant is a list of edits to the scripts, or a wrong behaviour of the workers.

Over 300 lines: the judge of a call reads the clock, the network and the records of the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NoReturn

import redis

from tasks_demo.leases.lua import Script, script

LEASE_SECONDS: Final = 10.0
RETENTION_SECONDS: Final = 3600.0
LEASE_US: Final = 10_000_000
RETENTION_US: Final = 3_600_000_000
#: An abandoned request arrives no later than this, long after other workers have claimed.
LATEST_US: Final = 900_000_000
#: The most that a lease in Redis lasts beyond its requested length: milliseconds are rounded up twice.
ROUNDING_US: Final = 2_000

PREFIX: Final = "model:"
CLOCK_KEY: Final = "model:clock"
SCRIPTS: Final = ("claim", "renew", "complete", "release")
READ_THE_TIME: Final = frozenset({"claim", "renew"})
REAL_TIME: Final = "redis.call('TIME')"
MODEL_TIME: Final = f"redis.call('HMGET', '{CLOCK_KEY}', 'seconds', 'microseconds')"
#: The clock of the calling worker; only a mutant reads it.
WORKER_TIME: Final = f"redis.call('HMGET', '{CLOCK_KEY}', 'worker_seconds', 'worker_microseconds')"


class Invariant(StrEnum):
    """What must always hold."""

    ONE_HOLDER = "at most one holder has a lease that has not ended by Redis time"
    BELIEF = "no worker believes in its lease for longer than Redis does"
    FENCE = "every claim gets a greater fence than any claim before it"
    STALE_TOKEN = "a token that does not hold the lease is told so; a call that is refused changes nothing"
    FINAL = "completed stays completed, with the result that was stored, until the retention ends"
    ATTEMPT = "attempt counts the claims"
    DIGEST = "other arguments get mismatch, and nobody else does"
    RETENTION = "the record lives for the retention after its last change"
    PROGRESS = "the holder may renew, complete and release; nobody waits for a lease that is over"
    STALE_WRITE = "the receiver that honours the fence takes no write of a claim after that of a later claim"
    RESULT = "the stored result is that of the write which stands at the receiver that honours the fence"
    ONE_EFFECT = "every delivered operation ends completed, with one effect at the receiver that honours the key"


class Violation(AssertionError):
    """An invariant was broken."""

    def __init__(self, invariant: Invariant, what: str) -> None:
        super().__init__(f"{invariant.name} ({invariant}): {what}")
        self.invariant = invariant


@dataclass(frozen=True)
class Mutant:
    """A protocol with one mistake; without arguments, the correct one."""

    name: str = "none"
    #: Script name, a text that occurs in it once, and the replacement.
    edits: tuple[tuple[str, str, str], ...] = ()
    #: Claim decides in a first step and writes in a second.
    checks_then_sets: bool = False
    completes_before_the_effect: bool = False
    drops_what_is_held: bool = False
    counts_from_the_reply: bool = False

    def __str__(self) -> str:
        return self.name


def with_model_time(name: str, source: str) -> str:
    """The script with the model's clock substituted for ``TIME``."""
    assert source.count(REAL_TIME) == (1 if name in READ_THE_TIME else 0), name
    changed = source.replace(REAL_TIME, MODEL_TIME)
    assert "'TIME'" not in changed, f"{name}.lua reads the time in a way that the model does not know"
    return changed


def edited(source: str, old: str, new: str) -> str:
    """Apply one edit; fail if its text does not occur exactly once."""
    assert source.count(old) == 1, f"occurs {source.count(old)} times, not once: {old}"
    return source.replace(old, new)


def scripts_of(mutant: Mutant) -> dict[str, Script]:
    """The scripts by name. When claim takes two steps, the second is called ``set``."""
    sources = {name: with_model_time(name, script(name).source) for name in SCRIPTS}
    for name, old, new in mutant.edits:
        sources[name] = edited(sources[name], old, new)
    if mutant.checks_then_sets:
        sources["set"] = edited(sources["claim"], "if redis.call('EXISTS', record) == 1 then", "if false then")
        sources["claim"] = edited(
            sources["claim"], "-- A single HSET", "if true then return {'claimed', fence, attempt} end --"
        )
    return {
        name: Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
        for name, source in sources.items()
    }


@dataclass
class Clock:
    """Microseconds since the example began, and how far Redis' own clock is ahead of them. Replaces ``time``."""

    elapsed_us: int = 0
    ahead_us: int = 1_800_000_000_000_777

    @property
    def redis_us(self) -> int:
        return self.elapsed_us + self.ahead_us

    def monotonic(self) -> float:
        """Seconds, for the store."""
        return self.elapsed_us / 1e6


class Fate(StrEnum):
    """What happens to one request."""

    ANSWERED = "answered"
    REPLY_LOST = "executed, and the reply is lost"
    REQUEST_LOST = "lost before it is executed"
    LATE = "given up by the worker, and executed later"


@dataclass(frozen=True)
class Link:
    """The network during one store call: one fate per request; the last applies to all further requests."""

    name: str
    fates: tuple[Fate, ...] = (Fate.ANSWERED,)
    there_us: int = 0
    back_us: int = 0

    def __repr__(self) -> str:
        return self.name


FINE: Final = Link("FINE")
LINKS: Final = (
    FINE,
    FINE,
    FINE,
    FINE,
    Link("SLOW_THERE", there_us=LEASE_US // 3),
    Link("SLOW_BACK", back_us=LEASE_US // 3),
    Link("OVERTAKEN_THERE", there_us=LEASE_US + ROUNDING_US),
    Link("REPLY_LOST", (Fate.REPLY_LOST, Fate.ANSWERED)),
    Link("REPLIES_LOST", (Fate.REPLY_LOST,), back_us=1000),
    Link("REQUEST_LOST", (Fate.REQUEST_LOST, Fate.ANSWERED), there_us=1000),
    Link("LATE_COPY", (Fate.LATE, Fate.ANSWERED)),
    Link("LATE_AND_LOST", (Fate.LATE, Fate.REQUEST_LOST)),
)


@dataclass(frozen=True)
class Call:
    """A script call on its way to Redis."""

    name: str
    sha: str
    key: str
    args: tuple[Any, ...]
    #: How far the calling worker's clock is ahead; only a mutant reads it.
    worker_ahead_us: int = 0


@dataclass
class Grant:
    """A granted lease. ``until_us``: its promised end, in Redis time."""

    token: str
    fence: int
    attempt: int
    number: int
    until_us: int
    who: str
    over: bool = False


@dataclass
class Known:
    """What the judge knows about one record, from the calls alone."""

    record: dict[bytes, bytes] = field(default_factory=dict)
    expires_us: int | None = None
    digest: str | None = None
    claims: int = 0
    grant: Grant | None = None
    completed: bool = False
    result: str | None = None


class Judge:
    """Checks each executed call against what the earlier calls allow. Ignores violations of invariants that are not watched."""

    def __init__(self, clock: Clock, watched: Collection[Invariant]) -> None:
        self.clock = clock
        self.watched = watched
        self.records: dict[str, Known] = {}
        # These outlive the record.
        self.fences: dict[str, int] = {}
        self.grants: dict[str, int] = {}
        self.ever_completed: set[str] = set()
        self.broken = False

    def require(self, invariant: Invariant, condition: object, what: str) -> None:
        """Raise Violation unless the condition holds."""
        if not condition and invariant in self.watched:
            self.broken = True
            raise Violation(invariant, what)

    def known(self, key: str) -> Known:
        """The record of this key."""
        return self.records.setdefault(key, Known())

    def forget(self, key: str) -> None:
        """Forget the record: its retention has ended."""
        self.records.pop(key)

    def saw(self, call: Call, reply: list[str], record: dict[bytes, bytes], ttl_ms: int) -> None:
        """Judge one executed call by its reply, the record after it, and the time to live that it set (negative: none)."""
        known = self.known(call.key)
        allowed = {"claim": self._claim, "renew": self._renew, "complete": self._complete, "release": self._release}
        changed = allowed[call.name](known, call, reply)
        said = f"{call.name} by {call.args[0][:4]} got {reply}; record {known.record} became {record}"
        if changed:
            self.require(Invariant.RETENTION, RETENTION_SECONDS - 60 < ttl_ms / 1000 <= RETENTION_SECONDS, said)
            known.expires_us = self.clock.redis_us + RETENTION_US
        else:
            self.require(Invariant.STALE_TOKEN, record == known.record, said)
            self.require(Invariant.RETENTION, ttl_ms < 0, said)
        known.record = record

    def _claim(self, known: Known, call: Call, reply: list[str]) -> bool:
        token, digest, _, _, who, gone = call.args
        now, grant = self.clock.redis_us, known.grant
        current = grant is not None and not grant.over
        own = grant is not None and current and grant.token == token
        said = f"claim got {reply} {self._state(known)}"
        if known.digest not in (None, digest):
            self.require(Invariant.DIGEST, reply == ["mismatch"], said)
        elif known.completed:
            stored = [] if known.result is None else [known.result]
            self.require(Invariant.FINAL, reply == ["completed", grant.who if grant else "", *stored], said)
        else:
            self.require(Invariant.DIGEST, reply[0] != "mismatch", said)
            self.require(Invariant.FINAL, reply[0] != "completed", said)
            if grant is not None and own:
                again = ["claimed", str(grant.fence), str(grant.attempt)]
                self.require(Invariant.PROGRESS, reply == again, f"asked again, {said}")
            elif grant is not None and current and grant.fence == gone:
                self.require(Invariant.PROGRESS, reply[0] == "claimed", said)
            elif grant is not None and current and now < grant.until_us:
                self.require(Invariant.ONE_HOLDER, reply[0] != "claimed", said)
            if reply[0] == "held":
                over_by = int(reply[1]) * 1000 - (grant.until_us - now) if grant is not None and current else -1
                self.require(Invariant.PROGRESS, 0 < over_by < ROUNDING_US and int(reply[1]) > 0, said)
                known_as = [str(grant.fence), grant.who] if grant is not None else []
                self.require(Invariant.PROGRESS, reply[2:] == known_as, said)
        if reply[0] != "claimed":
            return False
        fence, attempt = int(reply[1]), int(reply[2])
        if grant is not None and own and fence == grant.fence and not known.completed:
            grant.until_us = now + LEASE_US
            return True
        self.require(Invariant.FENCE, fence > self.fences.get(call.key, 0), f"{said} after {self.fences.get(call.key)}")
        self.require(Invariant.ATTEMPT, attempt == known.claims + 1, said)
        self.fences[call.key] = max(fence, self.fences.get(call.key, 0))
        self.grants[call.key] = self.grants.get(call.key, 0) + 1
        known.claims += 1
        known.digest = known.digest or digest
        known.completed = False
        known.grant = Grant(token, fence, attempt, self.grants[call.key], now + LEASE_US, who)
        return True

    def _holds(self, known: Known, call: Call, reply: list[str], yes: str) -> bool:
        """Whether the token holds the lease; the reply must agree."""
        grant = known.grant
        holds = (
            grant is not None and not grant.over and [grant.token, str(grant.fence)] == [str(x) for x in call.args[:2]]
        )
        invariant, wanted = (Invariant.PROGRESS, yes) if holds else (Invariant.STALE_TOKEN, "lost")
        self.require(invariant, reply == [wanted], f"{call.name} got {reply} {self._state(known)}")
        return holds

    def _renew(self, known: Known, call: Call, reply: list[str]) -> bool:
        if self._holds(known, call, reply, "renewed"):
            assert known.grant is not None
            known.grant.until_us = self.clock.redis_us + LEASE_US
            return True
        return reply == ["renewed"]

    def _complete(self, known: Known, call: Call, reply: list[str]) -> bool:
        grant = known.grant
        if known.completed and grant is not None and [grant.token, str(grant.fence)] == [str(x) for x in call.args[:2]]:
            self.require(Invariant.FINAL, reply == ["completed"], f"completed again, and got {reply}")
            return False
        if not self._holds(known, call, reply, "completed") and reply != ["completed"]:
            return False
        if grant is not None:
            grant.over = True
        known.completed = True
        known.result = call.args[3] if len(call.args) > 3 else None
        self.ever_completed.add(call.key)
        return True

    def _release(self, known: Known, call: Call, reply: list[str]) -> bool:
        if self._holds(known, call, reply, "released"):
            assert known.grant is not None
            known.grant.over = True
            return True
        return reply == ["released"]

    def _state(self, known: Known) -> str:
        return f"at {self.clock.redis_us} with {known}"


class Wire:
    """The client of the production store: runs its scripts at the model's time, or loses them, and informs the judge."""

    def __init__(self, client: Any, scripts: dict[str, Script], clock: Clock, judge: Judge) -> None:
        self.client = client
        self.clock = clock
        self.judge = judge
        self.link = FINE
        #: Lost calls, each with the time after which it can no longer arrive.
        self.late: list[tuple[int, Call]] = []
        self.worker_ahead_us = 0
        #: Runs once, while the next request is on its way; with a two-step claim, between the steps.
        self.meanwhile: Callable[[], object] | None = None
        self._names = {lua.sha: name for name, lua in scripts.items()}
        self._set = scripts.get("set")
        self._fates = list(FINE.fates)

    def use(self, link: Link, worker_ahead_us: int) -> None:
        """Set the network of the next call."""
        self.link, self._fates, self.worker_ahead_us = link, list(link.fates), worker_ahead_us

    def evalsha(self, sha: str, numkeys: int, key: str, *args: Any) -> Any:
        """The method that the store calls."""
        assert numkeys == 1
        call = Call(self._names[sha], sha, key, args, self.worker_ahead_us)
        link = self.link
        fate = self._fates.pop(0) if len(self._fates) > 1 else self._fates[0]
        self.wait(link.there_us)
        if fate is Fate.REQUEST_LOST:
            raise redis.ConnectionError(fate)
        if fate is Fate.LATE:
            self.late.append((self.clock.elapsed_us + LATEST_US, call))
            raise redis.TimeoutError(fate)
        reply = self.execute(call)
        self.wait(link.back_us)
        if fate is Fate.REPLY_LOST:
            raise redis.TimeoutError(fate)
        return reply

    def eval(self, *_: Any) -> NoReturn:
        """Never called: the scripts are loaded before the example."""
        raise AssertionError("a script was not loaded")

    def execute(self, call: Call) -> Any:
        """Run the script now and judge it."""
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None and self._set is None:
            meanwhile()
        reply, record, ttl = self._run(call.sha, call)
        if call.name == "claim" and self._set is not None:
            if meanwhile is not None:
                meanwhile()
            if reply[0] == b"claimed":
                reply, record, ttl = self._run(self._set.sha, call)
        self.judge.saw(call, [part.decode() for part in reply], record, ttl)
        return reply

    def _run(self, sha: str, call: Call) -> tuple[Any, dict[bytes, bytes], int]:
        here, there = self.clock.redis_us, self.clock.redis_us + call.worker_ahead_us
        moment = {
            "seconds": here // 1_000_000,
            "microseconds": here % 1_000_000,
            "worker_seconds": there // 1_000_000,
            "worker_microseconds": there % 1_000_000,
        }
        pipe = self.client.pipeline(transaction=False)
        pipe.hset(CLOCK_KEY, mapping=moment)
        pipe.evalsha(sha, 1, call.key, *call.args)
        pipe.hgetall(call.key)
        pipe.pttl(call.key)
        # Redis must not expire the record by its own clock, and the next call must set a time to live itself.
        pipe.persist(call.key)
        _, reply, record, ttl, _ = pipe.execute()
        return reply, record, ttl

    def wait(self, microseconds: int) -> None:
        """Advance time, and expire every record whose retention has ended."""
        self.clock.elapsed_us += microseconds
        self.late = [copy for copy in self.late if copy[0] > self.clock.elapsed_us]
        for key, known in list(self.judge.records.items()):
            if known.expires_us is not None and self.clock.redis_us >= known.expires_us:
                self.client.delete(key)
                self.judge.forget(key)

    def clean_up(self) -> None:
        """Delete all keys."""
        self.client.delete(CLOCK_KEY, *self.judge.records)
