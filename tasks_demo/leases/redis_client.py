"""The Redis client of the lease store: redis-py's connections, parser and errors, without its pool and its retries.

redis-py's pool, retry and instrumentation code, none of which is needed here, would take 5 % of the CPU time of a ``dedup_lock``
job (decision 21). If a command is interrupted before its reply was read, for example by a soft time limit, its connection is
closed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from inspect import signature
from typing import Any, Final
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, parse_url
from redis.retry import Retry

from tasks_demo.core.exceptions import InvalidSetting
from tasks_demo.leases import sentinel

# redis-py leaves it untyped.
_url_options: Final[Callable[[str], dict[str, Any]]] = parse_url


#: Keeps redis-py from sending its own name over each new connection; the option changed with version 7.
_NO_DRIVER_NAME: dict[str, Any] = (
    {"driver_info": None}
    if "driver_info" in signature(AbstractConnection.__init__).parameters
    else {"lib_name": "", "lib_version": ""}
)


def connect(url: str, timeout: float) -> redis.Redis:
    """Return a client for ``redis://``, ``rediss://``, ``unix://`` or ``sentinel://`` that does not retry. ``timeout``: seconds.

    The timeout applies separately to connecting and to each reply. Timeouts, retries and decoding in the URL's query are ignored.
    Does not connect yet. Raises InvalidSetting for an invalid address; the message does not repeat the address, which may contain
    a password.
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
            # With RESP2 and no driver name a new connection needs no round trip before the first script.
            "protocol": 2,
            **_NO_DRIVER_NAME,
        }
        if scheme == sentinel.SCHEME:
            pool = sentinel.pool(url, options)
        else:
            pool = redis.ConnectionPool(**{**_as_redis_py_spells_it(_url_options(url)), **options})
        # Does not connect, but makes redis-py refuse unknown options here instead of at the first claim.
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError, redis.RedisError) as error:
        # The parser's message may quote part of the password.
        why: object = error
        if "@" in url and not (isinstance(error, ValueError) and str(error).startswith(("its ", "it does not ", "a "))):
            why = "perhaps its user or password is not percent-encoded"
        raise InvalidSetting(
            f"The address of Redis cannot be used ({why}). Write redis://host:6379/0, rediss://…, unix:///path or "
            "sentinel://host1:26379,host2:26379/0?master=NAME."
        ) from error
    return LeaseClient(connection_pool=pool)


class LeaseClient(redis.Redis):
    """redis-py's client without its pool: one send and one read per command.

    Threads, greenlets and forked processes may share one without a lock: each command takes an idle connection for itself.
    """

    def __init__(self, connection_pool: redis.ConnectionPool) -> None:
        super().__init__(connection_pool=connection_pool)
        self._idle: list[Any] = []  # pop and append are atomic

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command once and read its reply. Closes the connection unless the whole reply was read."""
        connection = self._connection()
        parsed: Callable[..., Any] = self.parse_response
        try:
            if not getattr(connection, "is_connected", False):  # redis-py 5 checks this in connect() only
                connection.connect()  # only this asks the sentinels for the primary
            connection.send_command(*args)
            reply = parsed(connection, args[0], **options)
        except redis.exceptions.NoScriptError:
            self._idle.append(connection)
            raise
        except BaseException:
            # After a soft time limit, for example, the reply may still arrive, and the next command must not read it. An error
            # reply may mean that this server is no longer the primary (READONLY, MASTERDOWN, also from within a script): a new
            # connection goes to the current one.
            connection.disconnect()
            raise
        self._idle.append(connection)
        return reply

    def _connection(self) -> Any:
        try:
            connection = self._idle.pop()
            # A connection inherited from the parent of a fork is neither used nor shut down.
            while connection.pid != os.getpid():
                connection = self._idle.pop()
        except IndexError:
            # Not from the pool, which allows 100 connections in total: none is ever returned to it.
            pool = self.connection_pool
            return pool.connection_class(**pool.connection_kwargs)
        try:
            if not connection.can_read():
                return connection
        except redis.RedisError:
            pass
        connection.disconnect()  # closed by Redis, or with unread data; it reconnects when used
        return connection

    def close(self) -> None:
        """Close the idle connections; the next command opens a new one."""
        while self._idle:
            self._idle.pop().disconnect()
        super().close()


def _as_redis_py_spells_it(options: dict[str, Any]) -> dict[str, Any]:
    """Translate ``ssl_cert_reqs=CERT_REQUIRED``, as Celery's result backend spells it, to redis-py's ``required``."""
    wanted = options.get("ssl_cert_reqs")
    return options if wanted is None else {**options, "ssl_cert_reqs": wanted.removeprefix("CERT_").lower()}
