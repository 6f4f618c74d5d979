"""The lease store on Redis: four Lua scripts, one hash per operation, one round trip per call.

Fails closed: everything that prevents a valid reply raises LeaseStoreUnavailable.

Does **not** guarantee mutual exclusion when Redis loses the record (evicted, flushed, restarted without persistence, failed
over to a replica that had not seen it) or when its clock jumps forward by a lease duration. The fence still grows, unless the
record is lost *and* the clock of Redis is set back; receivers that check it refuse the older holder.
"""

from __future__ import annotations

import math
import secrets
import time
from typing import Any, Final

import redis

from tasks_demo.core.exceptions import LeaseStoreUnavailable
from tasks_demo.leases.keys import check_durations, record_key
from tasks_demo.leases.lua import Script, script
from tasks_demo.leases.protocol import Claimed, Completed, Held, Mismatch, Reply

_CONSEQUENCE: Final = {
    "claim": "The body was not run, and the message is requeued.",
    "renew": "The lease ends at its deadline unless a later renewal succeeds.",
    "complete": "The body has run, but without a completed marker: the operation may run again.",
    "release": "The operation stays held until its lease ends.",
}
# redis-py also raises these: TLS and socket failures, and the parser's error for a reply that is not RESP.
_FAILURES: Final = (redis.RedisError, OSError, ValueError)
# The command may have been executed although no reply came. _REFUSED are subclasses of ConnectionError of which this is not true.
_REPLY_LOST: Final = (redis.ConnectionError, redis.TimeoutError)
_REFUSED: Final = (redis.AuthenticationError, redis.exceptions.AuthorizationError, redis.BusyLoadingError)


class RedisLeaseStore:
    """A LeaseStore on one Redis or one Redis Cluster node; safe to share between threads and across a fork.

    ``lease_seconds`` should be at least three times the client's timeout, so that one renewal may time out.
    ``retention_seconds`` is how long a record, completed markers included, is kept after its last change. Raises InvalidSetting
    for an invalid prefix, lease duration or retention.

    When a reply is lost, claim, complete and release are sent once more, on a new connection and with the same token. That is
    safe: the scripts answer a repeated token as they did the first time. It takes at most two timeouts (and two more to
    connect). If the second reply is lost, too, or the first copy arrives after the lease was released, the operation may stay
    held by an unknown token until the lease ends.
    """

    def __init__(self, client: redis.Redis, prefix: str, lease_seconds: float, retention_seconds: float) -> None:
        check_durations(prefix, lease_seconds, retention_seconds)
        self._client = client
        self._prefix = prefix
        self.lease_seconds = lease_seconds
        # Rounded up: the lease must not end in Redis before it ends for its holder.
        self._lease_ms = math.ceil(lease_seconds * 1000)
        self._retention_ms = math.ceil(retention_seconds * 1000)

    def claim(self, operation: str, digest: str, who: str = "", gone: int | None = None) -> Reply:
        """Claim the lease; take over the claim with the fence ``gone``, if given, at once.

        Raises LeaseStoreUnavailable and InvalidOperationKey; then the body must not run.
        """
        owner = secrets.token_hex(16)
        over = "" if gone is None else gone
        sent, reply = self._ask("claim", operation, owner, digest, self._lease_ms, self._retention_ms, who, over)
        try:
            match reply:
                case ["claimed", fence, attempt]:
                    return Claimed(operation, owner, int(fence), int(attempt), sent + self.lease_seconds)
                case ["held", ms_left, fence, holder]:
                    return Held(int(ms_left) / 1000, int(fence), holder)
                case ["completed", holder]:
                    return Completed(None, holder)
                case ["completed", holder, result]:
                    return Completed(result, holder)
                case ["mismatch"]:
                    return Mismatch()
        except ValueError as error:
            raise _unknown_reply("claim", operation, reply) from error
        raise _unknown_reply("claim", operation, reply)

    def renew(self, claimed: Claimed) -> float | None:
        """Extend the lease. Returns the monotonic deadline, or None if the lease is lost. Sent once: the heartbeat retries."""
        sent, reply = self._ask(
            "renew", claimed.operation, claimed.owner, claimed.fence, self._lease_ms, self._retention_ms, again=False
        )
        renewed = _yes_or_lost("renew", claimed.operation, reply, "renewed")
        return sent + self.lease_seconds if renewed else None

    def complete(self, claimed: Claimed, result: str | None) -> bool:
        """Mark the operation completed and store ``result`` (JSON text of any size). False: another claim took it over."""
        stored = () if result is None else (result,)
        _, reply = self._ask("complete", claimed.operation, claimed.owner, claimed.fence, self._retention_ms, *stored)
        return _yes_or_lost("complete", claimed.operation, reply, "completed")

    def release(self, claimed: Claimed) -> bool:
        """End the lease. False: not held any more, or released by a first attempt whose reply was lost."""
        _, reply = self._ask("release", claimed.operation, claimed.owner, claimed.fence, self._retention_ms)
        return _yes_or_lost("release", claimed.operation, reply, "released")

    def _ask(self, name: str, operation: str, *args: str | int, again: bool = True) -> tuple[float, list[str]]:
        """Run a script. Returns when it was sent (monotonic), and the parts of its reply as text."""
        key = record_key(self._prefix, operation)
        try:
            try:
                sent = time.monotonic()
                reply = _run(self._client, script(name), key, args)
            except _REPLY_LOST as error:
                if not again or isinstance(error, _REFUSED):
                    raise
                sent = time.monotonic()
                reply = _run(self._client, script(name), key, args)
        except _FAILURES as error:
            raise _unavailable(name, operation, f"{type(error).__name__}: {error}") from error
        try:
            return sent, [part if isinstance(part, str) else part.decode("utf-8") for part in reply]
        except (TypeError, AttributeError, UnicodeError) as error:
            raise _unknown_reply(name, operation, reply) from error


def _run(client: redis.Redis, lua: Script, key: str, args: tuple[str | int, ...]) -> Any:
    try:
        return client.evalsha(lua.sha, 1, key, *args)
    except redis.exceptions.NoScriptError:
        # EVAL loads and runs the script in one step, so SCRIPT FLUSH cannot come in between.
        return client.eval(lua.source, 1, key, *args)


def _yes_or_lost(name: str, operation: str, reply: list[str], yes: str) -> bool:
    if reply not in ([yes], ["lost"]):
        raise _unknown_reply(name, operation, reply)
    return reply == [yes]


def _unavailable(name: str, operation: str, reason: str) -> LeaseStoreUnavailable:
    return LeaseStoreUnavailable(
        f"Redis did not {name} the lease on operation {operation!r}: {reason.rstrip('.')}. {_CONSEQUENCE[name]}"
    )


def _unknown_reply(name: str, operation: str, reply: object) -> LeaseStoreUnavailable:
    return _unavailable(name, operation, f"its reply {reply!r:.200} is not one of the script's")
