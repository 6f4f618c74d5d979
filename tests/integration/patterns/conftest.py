"""Fixtures of the tests of patterns."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.integration.patterns.once_worker import Environment
from tests.support import STATE, Home


@pytest.fixture(scope="module", params=["home", "own-server"])
def environment(request: pytest.FixtureRequest, home: Home, redis_url: str) -> Iterator[Environment]:
    """On the suite's ``home``, or on a separate PostgreSQL server that may be killed; with a worker of each module."""
    log = STATE / f"{request.module.__name__.rpartition('.')[2]}-{request.param}.log"
    with ExitStack() as stack:
        yield Environment(stack, home, redis_url, log, own_server=request.param == "own-server")
