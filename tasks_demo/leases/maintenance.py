"""Read and forget the lease record of one operation, for operators. Workers use ``redis_store``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import redis

from tasks_demo.core.exceptions import LeaseStoreUnavailable
from tasks_demo.core.lifecycle import described
from tasks_demo.leases.keys import record_key
from tasks_demo.leases.lua import script

#: State of a record that no claim can have written: a key of another type, or a hash without a state.
DAMAGED: Final = "damaged"
#: Never shown: whoever has the token can act as the holder.
SECRET: Final = frozenset({"owner"})


@dataclass(frozen=True, slots=True)
class Record:
    """The lease record of an operation. ``state``: claimed, completed, released, forgotten, or damaged. ``seconds_left``: until
    the lease ends, by the clock of Redis."""

    state: str
    fence: str = ""
    attempt: str = ""
    digest: str = ""
    seconds_left: float = 0.0
    #: The stored result, if any; it may be large or confidential.
    result: str | None = None
    #: Seconds until Redis deletes the record.
    seconds_kept: float = 0.0
    other_fields: dict[str, str] = field(default_factory=dict)


def read(client: redis.Redis, prefix: str, operation: str) -> Record | None:
    """Return the record, or None if there is none. Raises LeaseStoreUnavailable and InvalidOperationKey."""
    key = record_key(prefix, operation)
    try:
        kind = text(client.type(key))
        if kind == "none":
            return None
        if kind != "hash":
            return Record(DAMAGED, other_fields={"type": kind})
        raw: Any = client.hgetall(key)
        known = {text(name): text(value) for name, value in raw.items()}
        kept = max(number(client.pttl(key)) / 1000, 0.0)
        now = clock(client)
    except (redis.RedisError, OSError, ValueError) as error:
        raise _unavailable("show", operation, error) from error
    named = {"state", "fence", "attempt", "digest", "deadline", "result", *SECRET}
    return Record(
        state=known.get("state", ""),
        fence=known.get("fence", ""),
        attempt=known.get("attempt", ""),
        digest=known.get("digest", ""),
        seconds_left=max(number(known.get("deadline")) / 1000 - now, 0.0),
        result=known.get("result"),
        seconds_kept=kept,
        other_fields={name: value for name, value in known.items() if name not in named},
    )


def forget(
    client: redis.Redis, prefix: str, operation: str, shown: Record, *, even_if_held: bool, retention_seconds: float
) -> str:
    """Remove marker, result and digest of the record that was ``shown``; the fence stays.

    Returns ``forgotten``, ``held``, ``changed`` or ``unknown`` (see forget.lua). Raises LeaseStoreUnavailable; the record may
    have been forgotten then or not.
    """
    lua, key = script("forget"), record_key(prefix, operation)
    retention = math.ceil(retention_seconds * 1000)
    try:
        reply: Any = client.eval(lua.source, 1, key, shown.fence, shown.state, str(int(even_if_held)), str(retention))
        return text(reply[0])
    except (redis.RedisError, OSError, ValueError, LookupError, TypeError) as error:
        raise _unavailable("forget", operation, error) from error


def _unavailable(what: str, operation: str, error: Exception) -> LeaseStoreUnavailable:
    return LeaseStoreUnavailable(
        f"Redis did not {what} the record of operation {operation!r}: {described(error)}. Check "
        "the server that TASKS_DEMO_REDIS_URL names, and try again."
    )


def text(value: Any) -> str:
    """Return a reply or a field of Redis as text; empty if there is none."""
    return value if isinstance(value, str) else bytes(value or b"").decode("utf-8", "replace")


def number(value: Any) -> float:
    """Return a reply or a field of Redis as a number; 0 if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def clock(client: redis.Redis) -> float:
    """Return the time by the clock of Redis, seconds since the epoch."""
    seconds, microseconds = client.time()
    return int(seconds) + int(microseconds) / 1e6
