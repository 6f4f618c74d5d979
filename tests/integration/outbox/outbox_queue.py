"""A broker of their own, and a count, for tests of the outbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks_demo.demo.tasks import CHARGES
from tasks_demo.records.models import OutboxMessage
from tests.integration.servers.redis import RedisServer

JOB = {"customer": "c", "amount": 5}


charge = CHARGES["outbox"]


@pytest.fixture
def queue(short: Path) -> Iterator[RedisServer]:
    """A separate broker; no worker consumes from it."""
    with RedisServer(short) as server:
        yield server


def count() -> int:
    return OutboxMessage.objects.count()
