"""Connects to the broker, the result backend and the leases' Redis as workers do.

Each Redis that answers is passed on to ``redis_server``, which examines it.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis
from celery import Celery
from celery.backends.base import DisabledBackend
from celery.backends.redis import RedisBackend, SentinelBackend
from django.conf import settings as django_settings
from kombu.utils.encoding import bytes_to_str
from redis.sentinel import MasterNotFoundError

from tasks_demo.checks.setup import is_on_redis
from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import InvalidSetting
from tasks_demo.core.wording import listed
from tasks_demo.doctor.findings import PATIENCE, Finding, address, ok, reason, unusable
from tasks_demo.doctor.rabbitmq import confirms
from tasks_demo.leases.redis_client import connect
from tasks_demo.patterns import DedupLock

PART = "connections"
#: Maximum number of tasks that a row names.
NAMED = 5
UNREADABLE = "its address cannot be read"
ENCODE = "Percent-encode the special characters of the password, for example %40 for @."
#: kombu/transport/redis.py: the separator between a queue's name and a priority, and kombu's own keys.
SEPARATOR, UNACKED = "\x06\x16", ("unacked", "unacked_index", "unacked_mutex")


def internal(
    control: str = "celery", events: Iterable[str] = ("celeryev",), unacked: Iterable[str] = UNACKED
) -> re.Pattern[str]:
    """Return a regular expression for Celery's own names in the broker: remote control, events, delays, unacknowledged messages.

    The defaults are Celery's.
    """
    prefixes, held = ("|".join(map(re.escape, names)) for names in (events, unacked))
    pidbox = rf"(?:.*\.)?{re.escape(control)}\.pidbox"
    return re.compile(rf"{pidbox}|(?:{prefixes})(?:\..*)?|celery_delayed_.*|{held}", re.DOTALL)


INTERNAL = internal()


@dataclass(frozen=True)
class RedisUser:
    """One use of a Redis: its ``role`` in messages, a connected client, and the prefix of its keys."""

    role: str
    client: Any
    prefix: str
    #: True: an evicted key or a refused write breaks a promise. False for results.
    needed: bool = True
    #: Broker only: the separator between a queue's name and a priority, and the app's own names.
    separator: str = SEPARATOR
    internal: re.Pattern[str] = INTERNAL


def broker(app: Celery, users: list[RedisUser]) -> list[Finding]:
    """Connect to the broker as a worker does."""
    conf: Any = app.conf
    urls = _urls(conf.broker_read_url)
    if any(url and not address(url) for url in urls):
        return [unusable(PART, "broker", UNREADABLE, ENCODE)]
    options = dict(conf.broker_transport_options or {})
    is_redis = any(map(is_on_redis, urls))
    with connected(app) as connection:
        seen = address(connection.as_uri())
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=PATIENCE)
            channel = connection.channel()
        except Exception as error:  # noqa: BLE001 (each transport has its own errors)
            fix = _sentinel_fix(error, "CELERY_BROKER_TRANSPORT_OPTIONS") or how_to_start(
                "CELERY_BROKER_URL", is_redis=is_redis
            )
            return [unusable(PART, "broker", f"{seen}: {reason(error)}", fix)]
        if is_redis:
            # Not kombu's client, which would add its prefix to every key.
            raw = redis.Redis(connection_pool=channel.client.connection_pool)
            own = internal(
                conf.control_exchange,
                (conf.event_exchange, conf.event_queue_prefix),
                (str(options.get(f"{name}_key", name)) for name in UNACKED),
            )
            prefix, separator = str(options.get("global_keyprefix", "")), str(options.get("sep", SEPARATOR))
            users.append(RedisUser("broker", raw, prefix, separator=separator, internal=own))
            return [ok(PART, "broker", seen + _primary(raw))]
        by_amqp = connection.transport.driver_type == "amqp"
        return [ok(PART, "broker", _product(seen, connection)), *([confirms(options)] if by_amqp else [])]


@contextmanager
def connected(app: Celery) -> Iterator[Any]:
    """Yield a connection with a worker's options and our timeouts. It is not connected yet."""
    conf: Any = app.conf
    options = dict(conf.broker_transport_options or {})
    if any(map(is_on_redis, _urls(conf.broker_read_url))):
        options |= {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}
    with app.connection_for_read(connect_timeout=PATIENCE, transport_options=options, heartbeat=0) as connection:
        yield connection


def _primary(client: Any) -> str:
    """Return a clause with the primary that the Sentinels name; empty without Sentinels."""
    found = getattr(client.connection_pool, "get_master_address", None)
    if found is None:
        return ""
    host, port = found()
    return f", the primary is {host}:{port}"


def _sentinel_fix(error: BaseException, setting: str) -> str:
    """Return the fix for a Sentinel error; empty if the error is not one."""
    nameless = f"Write master_name in {setting}: the name of the primary in the Sentinels' configuration."
    cause = error.__cause__ or error
    if isinstance(cause, MasterNotFoundError) and "None" not in str(cause):
        return f"Correct master_name in {setting}, or check whether the Sentinels see a primary (SENTINEL MASTERS)."
    return nameless if isinstance(cause, MasterNotFoundError) or "master_name" in str(error) else ""


def _product(seen: str, connection: Any) -> str:
    properties = getattr(connection.connection, "server_properties", None) or {}
    product = f"{properties.get('product', '')} {properties.get('version', '')}".strip()
    return f"{seen} {product}".strip()


def results(app: Celery, users: list[RedisUser]) -> list[Finding]:
    """Ping a Redis; on any other backend, and on Redis behind Sentinels, read the result of a task ID that does not exist."""
    what = "results"
    url = str(app.conf.result_backend or "")
    if "://" in url and not address(url):
        return [unusable(PART, what, UNREADABLE, ENCODE)]
    backend: Any = app.backend
    if isinstance(backend, DisabledBackend):
        return [ok(PART, what, "no result backend is configured: return values are not stored")]
    seen = address(url) or url
    try:
        if isinstance(backend, RedisBackend) and not isinstance(backend, SentinelBackend):
            # Celery's own client times out only after two minutes.
            given = backend.client.connection_pool
            options = {**given.connection_kwargs, "socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}
            pool = redis.ConnectionPool(connection_class=given.connection_class, **options)
            client = redis.Redis(connection_pool=pool)
            client.ping()
            users.append(RedisUser("results", client, _prefix(backend), needed=False))
        else:
            backend.get_task_meta(str(uuid.uuid4()), cache=False)
    except Exception as error:  # noqa: BLE001 (each backend has its own errors)
        fix = _sentinel_fix(error, "CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS") or how_to_start(
            "CELERY_RESULT_BACKEND", is_redis=isinstance(backend, RedisBackend)
        )
        return [unusable(PART, what, f"{seen}: {reason(error)}", fix)]
    return [ok(PART, what, seen)]


def _prefix(backend: Any) -> str:
    """Return the prefix that the project puts before Celery's part of a result key."""
    return bytes_to_str(backend.task_keyprefix).removesuffix("celery-task-meta-")


def leases(app: Celery, users: list[RedisUser]) -> list[Finding]:
    """Connect to the leases' Redis as dedup_lock does."""
    what, url = "leases", settings.REDIS_URL
    if not url:
        unset = "TASKS_DEMO_REDIS_URL is not set"
        locked = [name for name, task in app.tasks.items() if isinstance(task, DedupLock)]
        if not locked:
            return [ok(PART, what, f"{unset}, and no task uses dedup_lock")]
        seen = f"{unset}: every job of {listed(sorted(locked), NAMED)} is deferred, and none runs"
        return [unusable(PART, what, seen, "Write TASKS_DEMO_REDIS_URL = 'redis://host:6379/0'.")]
    if not address(url):
        return [unusable(PART, what, UNREADABLE, ENCODE)]
    try:
        client = connect(url, PATIENCE)
        client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        fix = _sentinel_fix(error, "TASKS_DEMO_REDIS_URL") or how_to_start("TASKS_DEMO_REDIS_URL", is_redis=True)
        if isinstance(error, InvalidSetting):
            fix = "Write TASKS_DEMO_REDIS_URL as in docs/reference/patterns/dedup_lock.md, for example redis://host:6379/0."
        return [unusable(PART, what, f"{address(url)}: {reason(error)}", fix)]
    users.append(RedisUser("leases", client, settings.KEY_PREFIX))
    return [ok(PART, what, address(url) + _primary(client))]


def how_to_start(setting: str, *, is_redis: bool) -> str:
    """Return the fix for a server that does not answer."""
    if is_redis and getattr(django_settings, "REDIS_IS_EMBEDDED", False):
        return "Run `python manage.py redis` in another terminal, or `make up` for everything."
    return f"Start it, or correct the address or the password in {setting}."


def _urls(given: Any) -> list[str]:
    return [str(url) for url in given] if isinstance(given, (list, tuple)) else str(given or "").split(";")
