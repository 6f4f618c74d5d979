"""Fixtures of the tests of leases: Redis servers of each binary on this machine, and operations of their own."""

import itertools

import pytest

from tests.integration.servers.redis import own_redis, shared_redis

__all__ = ["own_redis", "shared_redis"]
_numbers = itertools.count()


@pytest.fixture
def operation() -> str:
    return f"order {next(_numbers)}"
