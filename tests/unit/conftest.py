"""What holds for every test of a unit."""

from __future__ import annotations

import pytest
from pytest_django import Settings


@pytest.fixture(autouse=True)
def _without_ledger(request: pytest.FixtureRequest, settings: Settings) -> None:
    """A body that runs without a database would leave its events to a later test that has one."""
    if "ledger" not in request.fixturenames:
        settings.TASKS_DEMO_LEDGER_IN_TESTS = False
