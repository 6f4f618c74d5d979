"""Fixtures of the example project, for every module here."""

from collections.abc import Iterator

import pytest

from tests.integration.servers.rabbitmq import rabbitmq
from tests.integration.stranger import any_broker, stranger

__all__ = ["any_broker", "no_task_elsewhere", "rabbitmq", "stranger"]


@pytest.fixture
def no_task_elsewhere() -> Iterator[None]:
    """Other modules register tasks whose records are on an alias that has no tables of ours; here they are not known."""
    from celery import current_app

    elsewhere = {name: task for name, task in current_app.tasks.items() if getattr(task, "using", None)}
    for name in elsewhere:
        del current_app.tasks[name]
    yield
    current_app.tasks.update(elsewhere)
