"""The Redis client of the lease store: redis-py's connections, parser and errors, without its pool and its retries.

Pool bookkeeping, retries (there are none) and measurements for observers take 5 % of a ``dedup_lock`` job's processor time
(decision 21). A connection whose question was interrupted before its answer, by a soft time limit for example, is closed.
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


#: How redis-py is told not to send its own name with each new connection; the option changed with version 7.
_NO_DRIVER_NAME: dict[str, Any] = (
    {"driver_info": None}
    if "driver_info" in signature(AbstractConnection.__init__).parameters
    else {"lib_name": "", "lib_version": ""}
)


def connect(url: str, timeout: float) -> redis.Redis:
    """A client for ``redis://``, ``rediss://``, ``unix://`` or ``sentinel://`` with this timeout in seconds and without retries.

    The timeout bounds each wait: for the connection and for a reply. Timeouts, retries and decoding in the URL's query are
    ignored. Nothing is connected yet. Raises InvalidSetting for an address that cannot work; the message does not repeat the
    address, which may hold a password.
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
            **_NO_DRIVER_NAME,
        }
        if scheme == sentinel.SCHEME:
            pool = sentinel.pool(url, options)
        else:
            pool = redis.ConnectionPool(**{**_as_redis_py_spells_it(_url_options(url)), **options})
        # Connects nothing; an option unknown to redis-py is refused here and not at the first claim.
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError, redis.RedisError) as error:
        # A parser may quote a piece of the password.
        why: object = error
        if "@" in url and not (isinstance(error, ValueError) and str(error).startswith(("its ", "it does not ", "a "))):
            why = "it has a user or a password that is not percent-encoded, perhaps"
        raise InvalidSetting(
            f"The address of Redis cannot be used ({why}). Write redis://host:6379/0, rediss://…, unix:///path or "
            "sentinel://host1:26379,host2:26379/0?master=NAME."
        ) from error
    return LeaseClient(connection_pool=pool)


class LeaseClient(redis.Redis):
    """redis-py's client with a shorter way to the connection: one send and one read per command.

    Threads, greenlets and forks may share one without a lock: each command takes an idle connection for itself.
    """

    def __init__(self, connection_pool: redis.ConnectionPool) -> None:
        super().__init__(connection_pool=connection_pool)
        self._idle: list[Any] = []  # pop and append are atomic

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and read its reply, once, on a connection that is closed unless the whole reply was read."""
        connection = self._connection()
        parsed: Callable[..., Any] = self.parse_response
        try:
            if not getattr(connection, "is_connected", False):  # redis-py 5 asks in connect() only
                connection.connect()  # only this asks the sentinels where the primary is
            connection.send_command(*args)
            reply = parsed(connection, args[0], **options)
        except redis.exceptions.NoScriptError:
            self._idle.append(connection)
            raise
        except BaseException:
            # After a soft time limit, for example, the reply is still to come, and the next command must not read it. An error
            # reply may mean that this is no primary any more (READONLY, MASTERDOWN, also from within a script): a new connection
            # goes to the server that has the address by then.
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
            # Not from the pool, which counts its connections and allows 100: none is ever returned to it.
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
    """Accept ``ssl_cert_reqs=CERT_REQUIRED``, as Celery's result backend spells it, for redis-py's ``required``."""
    wanted = options.get("ssl_cert_reqs")
    return options if wanted is None else {**options, "ssl_cert_reqs": wanted.removeprefix("CERT_").lower()}
