"""Create the lease store that the settings name: on Redis, or in the memory of this process."""

from __future__ import annotations

import os
from typing import Any

from celery import current_app
from redis import Redis

from tasks_demo.core.conf import in_tests, settings
from tasks_demo.core.exceptions import InvalidSetting
from tasks_demo.leases.memory_store import MEMORY, URL, Memory, MemoryLeaseStore
from tasks_demo.leases.protocol import LeaseStore
from tasks_demo.leases.redis_client import connect
from tasks_demo.leases.redis_store import RedisLeaseStore

_stores: dict[tuple[Any, ...], LeaseStore] = {}


def configured_store() -> LeaseStore:
    """Return the lease store of this process, created from the settings."""
    key = (
        os.getpid(),
        settings.REDIS_URL,
        settings.KEY_PREFIX,
        settings.LEASE_SECONDS,
        settings.RETENTION_SECONDS,
        settings.REDIS_TIMEOUT_SECONDS,
    )
    if key not in _stores:
        _stores.clear()  # in tests, which change settings, this closes the connections of the previous store
        place = lease_place(settings.REDIS_TIMEOUT_SECONDS)
        kind: Any = MemoryLeaseStore if isinstance(place, Memory) else RedisLeaseStore
        _stores[key] = kind(place, settings.KEY_PREFIX, settings.LEASE_SECONDS, settings.RETENTION_SECONDS)
    return _stores[key]


def lease_place(timeout: float) -> Redis | Memory:
    """Return the client or memory for TASKS_DEMO_REDIS_URL; does not connect. Raises InvalidSetting for an unusable address."""
    if settings.REDIS_URL != URL:
        return connect(settings.REDIS_URL, timeout)
    if not (in_tests() or current_app.conf.task_always_eager):
        raise InvalidSetting(
            f"TASKS_DEMO_REDIS_URL is {URL!r}, which keeps leases in the memory of one process: two workers would run "
            "one operation at the same time. It is for tests and eager mode. Write the address of a Redis."
        )
    return MEMORY
