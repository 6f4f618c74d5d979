"""``sentinel://`` addresses of the lease store's Redis: each new connection asks the sentinels for the primary.

    sentinel://:password@host1:26379,host2:26379,host3:26379/0?master=mymaster
    sentinel://:password@host1:26379;sentinel://:password@host2:26379?master=mymaster       as Celery spells the broker

``master`` names the primary. User, password and database number apply to the primary; ``sentinel_username`` and
``sentinel_password`` in the query apply to the sentinels. Does **not** guarantee that a failover loses nothing: the replica may
not have received the last leases and markers. The fence still grows (see ``redis_store``).
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import redis
from redis.sentinel import Sentinel, SentinelConnectionPool

SCHEME: Final = "sentinel"
PORT: Final = 26379
# redis-py leaves them untyped.
_sentinel: Final[Any] = Sentinel
_managed_pool: Final[Any] = SentinelConnectionPool
_KNOWN: Final = frozenset({"master", "sentinel_username", "sentinel_password"})


def pool(url: str, options: dict[str, Any]) -> redis.ConnectionPool:
    """Return a pool of connections to the current primary; does not connect yet. Raises ValueError.

    Each sentinel that does not answer delays every new connection by one connect timeout.
    """
    hosts: list[tuple[str, int]] = []
    given: dict[str, Any] = {}
    query: dict[str, str] = {}
    for part in url.split(";"):
        parsed = urlsplit(part)
        if parsed.scheme != SCHEME:
            raise ValueError(f"a part of it has the scheme {parsed.scheme!r}, not {SCHEME}")
        credentials, _, places = parsed.netloc.rpartition("@")
        user, _, password = credentials.partition(":")
        given |= {name: unquote(text) for name, text in (("username", user), ("password", password)) if text}
        hosts += [_place(place) for place in places.split(",")]
        if number := parsed.path.strip("/"):
            given["db"] = int(number)
        query |= {
            name: values[-1] for name, values in parse_qs(parsed.query, strict_parsing=bool(parsed.query)).items()
        }
    if unknown := query.keys() - _KNOWN:
        raise ValueError(f"its query has {', '.join(sorted(unknown))}; allowed are {', '.join(sorted(_KNOWN))}")
    if not query.get("master"):
        raise ValueError("it does not name the primary: add ?master=NAME")
    own = {name: value for name, value in options.items() if not name.startswith(("retry_on_", "driver_"))}
    for name in ("username", "password"):
        if f"sentinel_{name}" in query:
            own[name] = query[f"sentinel_{name}"]
    manager = _sentinel(hosts, sentinel_kwargs=own)
    made: redis.ConnectionPool = _managed_pool(query["master"], manager, **given, **options)
    return made


def _place(text: str) -> tuple[str, int]:
    # urlsplit parses brackets and ports, but only one host.
    parsed = urlsplit(f"//{text}")
    if not parsed.hostname:
        raise ValueError("a sentinel has no host")
    return parsed.hostname, parsed.port or PORT
