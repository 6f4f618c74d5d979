"""The pytest plugin. Write ``pytest_plugins = ["tasks_demo.testing.pytest"]`` into the project's conftest.py.

It isolates every test. In a test, the functions of ``tasks_demo.testing`` act on the fixture ``deliveries``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks_demo.testing.deliveries import Deliveries, isolated


@pytest.fixture
def delivery_redis_url() -> str:
    """The address of the lease store: memory. Override it to test with a Redis."""
    return "memory://"


@pytest.fixture(autouse=True)
def deliveries(delivery_redis_url: str) -> Iterator[Deliveries]:
    """Isolates the test: eager mode, and its own leases, markers and messages."""
    with isolated(delivery_redis_url) as sent:
        yield sent
