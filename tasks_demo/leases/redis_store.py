"""The lease store on Redis: four Lua scripts, one hash per operation, one round trip per call.

Fails closed: whatever goes wrong between us and a believable answer is LockStoreUnavailable, and says so.

Not guaranteed: mutual exclusion when Redis loses the record (evicted, flushed, restarted without persistence, failed
over to a replica that had not seen it) or when its clock jumps forward by a lease. The fence still grows, unless the
record is lost *and* the clock of Redis goes back; receivers that check it refuse the older holder.
"""

from __future__ import annotations

import math
import os
import secrets
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from tasks_demo.core.exceptions import InvalidSetting, LockStoreUnavailable
from tasks_demo.leases import sentinel
from tasks_demo.leases.keys import record_key
from tasks_demo.leases.lua import Script, script
from tasks_demo.leases.protocol import Claimed, Completed, Held, Mismatch, Reply

_CONSEQUENCE: Final = {
    "claim": "The body was not run, and the message is to go back to the queue.",
    "renew": "The lease ends at its deadline unless a later renewal succeeds.",
    "complete": "The body has run, but nobody will know: the operation may run again.",
    "release": "The operation stays held until its lease ends.",
}
# redis-py also lets these through: a TLS or socket failure, and the parser's complaint about an answer that is no RESP.
_FAILURES: Final = (redis.RedisError, OSError, ValueError)
# The command may have been executed although no reply came; the other two below are connection errors only by class.
_REPLY_LOST: Final = (redis.ConnectionError, redis.TimeoutError)
_REFUSED: Final = (redis.AuthenticationError, redis.exceptions.AuthorizationError, redis.BusyLoadingError)


# redis-py leaves it untyped.
_url_options: Final[Callable[[str], dict[str, Any]]] = parse_url


def connect(url: str, timeout: float) -> redis.Redis:
    """A client for ``redis://``, ``rediss://``, ``unix://`` or ``sentinel://`` that waits ``timeout`` seconds and never retries.

    The timeout bounds each wait: for the connection, for a reply. Timeouts, retries and decoding in the URL's query
    are overruled. Nothing is connected yet. Raises InvalidSetting for an address that cannot work; the message
    leaves the address out, since it may hold a password.
    """
    try:
        scheme = urlsplit(url).scheme
        if scheme not in {"redis", "rediss", "unix", sentinel.SCHEME}:
            raise ValueError(f"its scheme is {scheme!r}")
        options: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_timeout": False,
            "retry_on_error": [],
            "health_check_interval": 0,
            "decode_responses": False,
            # RESP2 and no driver name: a new connection costs no round trip before the first script.
            "protocol": 2,
            "driver_info": None,
        }
        if scheme == sentinel.SCHEME:
            pool = sentinel.pool(url, options)
        else:
            pool = redis.ConnectionPool(**{**_as_redis_spells_it(_url_options(url)), **options})
        # Connects nothing, but an option that redis-py does not know is found here and not at the first claim.
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError, redis.RedisError) as error:
        # What a parser quotes may be a piece of the password.
        why: object = error
        if "@" in url and not (isinstance(error, ValueError) and str(error).startswith(("its ", "it does not ", "a "))):
            why = "it has a user or a password that is not percent-encoded, perhaps"
        raise InvalidSetting(
            f"The address of Redis cannot be used ({why}). Write redis://host:6379/0, rediss://…, unix:///path or "
            "sentinel://host1:26379,host2:26379/0?master=NAME."
        ) from error
    return _Direct(connection_pool=pool)


class _Direct(redis.Redis):
    """redis-py's client without what each command passes on its way there and what is of no use here: retries, of which there are
    none, the bookkeeping of its pool, measurements for observers. They are a third of a call's time in this process.

    Threads, greenlets and forks may share one, without a lock: whoever asks takes a connection that nobody else has.
    """

    def __init__(self, connection_pool: redis.ConnectionPool) -> None:
        super().__init__(connection_pool=connection_pool)
        self._idle: list[Any] = []  # pop and append are atomic

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and read its reply, once, on a connection that is closed unless the whole reply was read."""
        connection = self._connection()
        parsed: Callable[..., Any] = self.parse_response
        try:
            if not connection.is_connected:
                connection.connect()  # of a primary behind sentinels, only this asks where it is
            connection.send_command(*args)
            reply = parsed(connection, args[0], **options)
        except redis.exceptions.NoScriptError:
            self._idle.append(connection)
            raise
        except BaseException:
            # A soft time limit between question and answer, for one: the next to ask must not be given this answer. And an
            # error as the answer may mean "not me" (READONLY, MASTERDOWN, also from within a script): the next connection
            # goes to whoever has the address by then.
            connection.disconnect()
            raise
        self._idle.append(connection)
        return reply

    def _connection(self) -> Any:
        try:
            connection = self._idle.pop()
            # A parent's, inherited by a fork, is never used, and never told to shut down.
            while connection.pid != os.getpid():
                connection = self._idle.pop()
        except IndexError:
            # Not made by the pool, which counts what it has made and allows 100: nothing is ever given back to it.
            pool = self.connection_pool
            return pool.connection_class(**pool.connection_kwargs)
        try:
            if not connection.can_read():
                return connection
        except redis.RedisError:
            pass
        connection.disconnect()  # closed by Redis since, or it has said what nobody asked for; it connects when used
        return connection

    def close(self) -> None:
        """Close the connections that nobody uses; the next command opens another."""
        while self._idle:
            self._idle.pop().disconnect()
        super().close()


def _as_redis_spells_it(options: dict[str, Any]) -> dict[str, Any]:
    """Celery's result backend wants ``ssl_cert_reqs=CERT_REQUIRED`` in the address, redis-py ``required``: either will do."""
    wanted = options.get("ssl_cert_reqs")
    return options if wanted is None else {**options, "ssl_cert_reqs": wanted.removeprefix("CERT_").lower()}


def check_durations(prefix: str, lease_seconds: float, retention_seconds: float) -> None:
    """Raise InvalidSetting for a prefix, lease or retention that no store can work with."""
    record_key(prefix, "any")
    if not 0 < lease_seconds < math.inf:
        raise InvalidSetting(f"A lease of {lease_seconds!r} s cannot work: write a number above zero.")
    if not lease_seconds <= retention_seconds < math.inf:
        raise InvalidSetting(
            f"A retention of {retention_seconds!r} s is shorter than the lease ({lease_seconds} s): "
            "the record would vanish under its holder. Make it longer than any message waits, for example 7 days."
        )


class RedisLeaseStore:
    """A LeaseStore on one Redis or one Redis Cluster node; safe to share between threads and across a fork.

    ``lease_seconds`` must be well above the client's timeout: three times as much leaves room for one renewal that
    times out. ``retention_seconds`` is how long a record is kept after its last change, the completed marker included.
    Raises InvalidSetting for a prefix, lease or retention that cannot work.

    A call whose reply is lost is sent once more by claim, complete and release, on a new connection and with the same
    token, which is safe: the scripts answer the token's second question as its first. Worst case two timeouts (and
    two more to connect). If the second is lost too, the operation may stay held until the lease ends, by a token that
    nobody knows. So it may when the first copy was so late that it arrived after the lease had been released again.
    """

    def __init__(self, client: redis.Redis, prefix: str, lease_seconds: float, retention_seconds: float) -> None:
        check_durations(prefix, lease_seconds, retention_seconds)
        self._client = client
        self._prefix = prefix
        self._lease_seconds = lease_seconds
        # Rounded up: Redis must not end a lease before its owner does.
        self._lease_ms = math.ceil(lease_seconds * 1000)
        self._retention_ms = math.ceil(retention_seconds * 1000)

    @property
    def lease_seconds(self) -> float:
        """How long a claim or a renewal lasts."""
        return self._lease_seconds

    def claim(self, operation: str, digest: str, who: str = "", gone: int | None = None) -> Reply:
        """Ask for the lease; over the claim with the fence ``gone``, if one is given, at once.

        Raises LockStoreUnavailable and InvalidOperationKey; then the body must not run.
        """
        owner = secrets.token_hex(16)
        over = "" if gone is None else gone
        sent, reply = self._ask("claim", operation, owner, digest, self._lease_ms, self._retention_ms, who, over)
        try:
            match reply:
                case ["claimed", fence, attempt]:
                    return Claimed(operation, owner, int(fence), int(attempt), sent + self._lease_seconds)
                case ["held", ms_left, fence, holder]:
                    return Held(int(ms_left) / 1000, int(fence), holder)
                case ["completed", holder]:
                    return Completed(None, holder)
                case ["completed", holder, result]:
                    return Completed(result, holder)
                case ["mismatch"]:
                    return Mismatch()
        except ValueError as error:
            raise _unintelligible("claim", operation, reply) from error
        raise _unintelligible("claim", operation, reply)

    def renew(self, claimed: Claimed) -> float | None:
        """The new monotonic deadline, or None if the lease is lost. Sent once: the heartbeat has its own retries."""
        sent, reply = self._ask(
            "renew", claimed.operation, claimed.owner, claimed.fence, self._lease_ms, self._retention_ms, again=False
        )
        renewed = _yes_or_lost("renew", claimed.operation, reply, "renewed")
        return sent + self._lease_seconds if renewed else None

    def complete(self, claimed: Claimed, result: str | None) -> bool:
        """Mark the operation as done and keep ``result`` (JSON text of any size). False: taken over by another."""
        stored = () if result is None else (result,)
        _, reply = self._ask("complete", claimed.operation, claimed.owner, claimed.fence, self._retention_ms, *stored)
        return _yes_or_lost("complete", claimed.operation, reply, "completed")

    def release(self, claimed: Claimed) -> bool:
        """Give the lease back. False: not ours any more, or a first release whose reply was lost had worked."""
        _, reply = self._ask("release", claimed.operation, claimed.owner, claimed.fence, self._retention_ms)
        return _yes_or_lost("release", claimed.operation, reply, "released")

    def _ask(self, name: str, operation: str, *args: str | int, again: bool = True) -> tuple[float, list[str]]:
        """When the script was sent (monotonic), and its reply as texts."""
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
            raise _unintelligible(name, operation, reply) from error


def _run(client: redis.Redis, lua: Script, key: str, args: tuple[str | int, ...]) -> Any:
    try:
        return client.evalsha(lua.sha, 1, key, *args)
    except redis.exceptions.NoScriptError:
        # EVAL runs and stores it in one step: no flush can come in between.
        return client.eval(lua.source, 1, key, *args)


def _yes_or_lost(name: str, operation: str, reply: list[str], yes: str) -> bool:
    if reply not in ([yes], ["lost"]):
        raise _unintelligible(name, operation, reply)
    return reply == [yes]


def _unavailable(name: str, operation: str, reason: str) -> LockStoreUnavailable:
    return LockStoreUnavailable(
        f"Redis did not {name} the lease on operation {operation!r}: {reason.rstrip('.')}. {_CONSEQUENCE[name]}"
    )


def _unintelligible(name: str, operation: str, reply: object) -> LockStoreUnavailable:
    return _unavailable(name, operation, f"its answer {reply!r:.200} is not one that this version understands")
