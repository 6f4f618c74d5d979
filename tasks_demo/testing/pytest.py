"""The pytest plugin: ``pytest_plugins = ["tasks_demo.testing.pytest"]`` in the conftest.py of the project.

Every test is isolated then. The fixture ``deliveries`` is what the functions of ``tasks_demo.testing`` speak of.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks_demo.testing.deliveries import Deliveries, isolated


@pytest.fixture
def delivery_redis_url() -> str:
    """Where leases live: in memory. Override it with the address of a Redis to test with that."""
    return "memory://"


@pytest.fixture(autouse=True)
def deliveries(delivery_redis_url: str) -> Iterator[Deliveries]:
    """Eager mode, leases and markers of this test's own, and the messages that it has sent."""
    with isolated(delivery_redis_url) as sent:
        yield sent
