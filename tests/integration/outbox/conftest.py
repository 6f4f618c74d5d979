"""A broker for the tests of the outbox."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.servers.redis import RedisServer


@pytest.fixture
def broker(short: Path) -> Iterator[RedisServer]:
    """A separate broker; no worker consumes from it."""
    with RedisServer(short) as server:
        yield server
