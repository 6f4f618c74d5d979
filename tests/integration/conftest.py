"""Fixtures for the example project, shared by all integration tests."""

from collections.abc import Iterator

import pytest

from tests.integration.servers.rabbitmq import rabbitmq
from tests.integration.stranger import any_broker, stranger

__all__ = ["any_broker", "no_task_elsewhere", "rabbitmq", "stranger"]


@pytest.fixture
def no_task_elsewhere() -> Iterator[None]:
    """Hide tasks of other modules whose records are on an alias without our tables."""
    from celery import current_app

    elsewhere = {name: task for name, task in current_app.tasks.items() if getattr(task, "using", None)}
    for name in elsewhere:
        del current_app.tasks[name]
    yield
    current_app.tasks.update(elsewhere)
